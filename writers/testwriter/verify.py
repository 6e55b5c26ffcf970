"""Whether a restore brought back what was backed up, and nothing that was excluded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from shadowset.vss.components import Component
from shadowset.vss.enums import FileRestoreStatus
from shadowset.vss.filespec import mapped_path, matches
from shadowset.vss.metadata import ComponentInfo, FileSet
from shadowset.writers.testwriter.files import excluded_files, files_of
from shadowset.writers.testwriter.settings import ComponentSettings, Settings

Digests = dict[str, dict[str, str]]  # by component, then by the path of the file


def digest(path: str) -> str:
    """SHA-256 of a file. Errors: OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Verifier:
    """Remembers the files of each set's components; what was remembered last counts at the restore.

    Files that a partial or differenced file names are backed up in part, so they are not compared.
    """

    def __init__(self, settings: Settings, variables: Mapping[str, str]) -> None:
        self._settings = settings
        self._variables = variables
        self._pending: dict[str, Digests] = {}
        self._kept: Digests = {}

    def record(self, session: str, chosen: Sequence[ComponentInfo]) -> None:
        """Reads the files as they are now. Errors: OSError."""
        if self._settings.check_includes:
            self._pending[session] = {info.full_path: self._digests(info) for info in chosen}

    def _digests(self, info: ComponentInfo) -> dict[str, str]:
        files = files_of(info.file_sets, self._settings.excluded, self._variables)
        partly = self._partly(self._settings.component(info.logical_path, info.name))
        return {path: digest(path) for path in files if not any(matches(p, path, self._variables) for p in partly)}

    @staticmethod
    def _partly(component: ComponentSettings | None) -> list[FileSet]:
        if component is None:
            return []
        partial = [FileSet(each.path, each.filename) for each in component.partial_files]
        return partial + [FileSet(each.path, each.filespec, each.recursive) for each in component.differenced_files]

    def keep(self, session: str) -> None:
        """The shadow copies of this session exist."""
        self._kept.update(self._pending.pop(session, {}))

    def forget(self, session: str) -> None:
        """The session is over."""
        self._pending.pop(session, None)

    def problems(self, configured: ComponentSettings, component: Component) -> list[str]:
        """What is wrong with a restored component, a sentence each."""
        if not self._settings.check_includes:
            return []
        if component.file_restore_status is not FileRestoreStatus.ALL:
            return [f"the requester did not restore all files of {component.full_path}"]
        recorded = self._kept.get(component.full_path)
        if recorded is None:
            return [f"this writer saw no backup of {component.full_path}, so its restore cannot be checked"]
        return [text for path, value in recorded.items() if (text := self._problem(component, path, value))]

    def _problem(self, component: Component, path: str, value: str) -> str:
        rules = component.new_targets or component.alternate_location_mappings
        places = [mapped_path(rule, path, self._variables) for rule in rules if matches(rule, path, self._variables)]
        place = places[0] if places else path
        try:
            return "" if digest(place) == value else f"{place} is not what was backed up"
        except OSError as error:
            return f"{place} was not restored: {error.strerror}"

    def excluded(self) -> list[str]:
        """Excluded files that are there, a sentence each."""
        if not self._settings.check_excludes:
            return []
        return [f"{path} is excluded and there" for path in excluded_files(self._settings.excluded, self._variables)]
