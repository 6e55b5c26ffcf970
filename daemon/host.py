"""What the cut asks of this host beside the providers: mounted file systems, a guardian over them, their journal."""

from __future__ import annotations

from shadowset.daemon.freeze import FrozenRoot, open_roots
from shadowset.daemon.guardian_link import Guard, GuardianLink, remove_journal, write_journal
from shadowset.daemon.process import in_thread
from shadowset.daemon.readers import readers_of
from shadowset.vss.paths import Paths


class Host:
    """The real one. A model takes its place where all states are explored."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def open_roots(self, devices: dict[str, str]) -> list[FrozenRoot]:
        """The file systems on the volumes (name → device). Errors: VSS_E_VOLUME_NOT_SUPPORTED."""
        return open_roots(devices)

    async def readers_of(self, path: str) -> list[str]:
        """Who has a file, or something below a directory, open."""
        return await in_thread(lambda: readers_of(path))

    def guard(self, roots: list[FrozenRoot]) -> Guard:
        """Start a guardian over them."""
        return GuardianLink(roots)

    def write_journal(self, set_id: str, roots: list[FrozenRoot]) -> None:
        """Name the file systems of a set that is about to freeze them."""
        write_journal(self._paths.frozen, set_id, roots)

    def remove_journal(self, set_id: str) -> None:
        """They have thawed."""
        remove_journal(self._paths.frozen, set_id)
