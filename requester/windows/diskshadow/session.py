"""One run of diskshadow: its settings and aliases, and the sets and restores that it has under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.cli.output import note, say
from shadowset.requester.cli.watch import show_notice
from shadowset.requester.sentences import printable
from shadowset.requester.windows.creation import Creation, Made
from shadowset.requester.windows.diskshadow.settings import Settings
from shadowset.requester.windows.restoration import Restoration

CLIENT = "diskshadow"
SET_ALIAS = "VSS_SHADOW_SET"


class Session:
    """See the module. ``close`` gives back what is volatile: the connections are the leases of their copies."""

    def __init__(self, log: TextIO | None = None) -> None:
        self._log = log
        self._leases: list[BackupComponents] = []
        self._forget()

    def _forget(self) -> None:
        self.settings = Settings()
        self.aliases: dict[str, str] = {}
        self.creation: tuple[Creation, Made] | None = None
        self.completed = False
        self.loaded: str | None = None
        self.restoration: Restoration | None = None

    def tell(self, text: str = "") -> None:
        """Print a result."""
        say(text)
        self._record(text)

    def complain(self, text: str) -> None:
        """Print a failure."""
        note(text)
        self._record(printable(text))

    def _record(self, text: str) -> None:
        if self._log is not None:
            self._log.write(f"{text}\n")
            self._log.flush()

    @contextmanager
    def lease(self) -> Iterator[BackupComponents]:
        """A connection that stays until the end or RESET, unless the block fails. Errors: ServiceUnavailable."""
        calls = BackupComponents(client=CLIENT, on_notice=show_notice)
        try:
            yield calls
        except BaseException:
            # What is half done would keep others from making their sets.
            calls.close()
            raise
        self._leases.append(calls)

    def set_alias(self, name: str, value: str) -> None:
        """Let ``%NAME%`` stand for a value from now on; a name in another case is the same name."""
        for known in [one for one in self.aliases if one.upper() == name.upper()]:
            del self.aliases[known]
        self.aliases[name] = value

    @property
    def names_by_id(self) -> dict[str, str]:
        """Aliases by the ids that they stand for."""
        return {value.strip("{}"): name for name, value in self.aliases.items()}

    def reset(self) -> None:
        """Forget everything; volatile copies go."""
        self.close()
        self._forget()

    def close(self) -> None:
        """Say what was left undone and let go of everything."""
        if self.settings.full_backup and self.creation and not self.completed:
            self.tell("\nNote: END BACKUP was not commanded, writers not notified BackupComplete.")
        while self._leases:
            self._leases.pop().close()
