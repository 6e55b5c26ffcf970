"""The two dialogues with a guest, each a line of JSON at a time over a Unix socket: its agent's and its monitor's.

QEMU serves one client of such a socket at a time, and a later one waits without a word. So connections are short:
between freeze and thaw there is none, and a guard can thaw in place of a writer that died or hangs.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from shadowset.vss.codes import Code, VssError

DELIMITER = b"\xff"
MAX_LINE = 16 << 20
RECEIVE_BYTES = 64 << 10
Opened = Callable[["Lines"], None]


class Lines:
    """One connection. Every wait ends at ``end`` (time.monotonic), which may be moved; ``interrupt`` ends it too."""

    who = "the socket"

    def __init__(self, path: str, guest: str, end: float, opened: Opened = lambda _lines: None) -> None:
        """``opened`` gets the connection before it is made, to interrupt it. Errors: VssError naming the guest."""
        self.guest, self.path, self.end = guest, path, end
        self._data = b""
        self._socket = socket.socket(socket.AF_UNIX)
        opened(self)
        try:
            self._limit()
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise self.lost(error) from error

    def lost(self, error: Exception | str) -> VssError:
        """Nobody there, or the connection broke: it may be tried again."""
        message = f"{self.who} of the guest {self.guest} cannot be reached at {self.path} ({error}); see that it runs"
        return VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def _limit(self) -> None:
        left = self.end - time.monotonic()
        if left <= 0:
            raise self._late()
        self._socket.settimeout(left)

    def _late(self) -> VssError:
        message = f"{self.who} of the guest {self.guest} did not answer in time; look into the guest, and whether"
        return VssError(Code.VSS_E_WRITERERROR_TIMEOUT, f"{message} another program holds {self.path}")

    def write(self, message: dict[str, Any], before: bytes = b"") -> None:
        """Errors: VssError."""
        try:
            self._limit()
            self._socket.sendall(before + json.dumps(message).encode() + b"\n")
        except TimeoutError as error:
            raise self._late() from error
        except OSError as error:
            raise self.lost(error) from error

    def read_past(self, mark: bytes) -> bytes:
        """All until ``mark``, which is taken away. Errors: VssError."""
        while mark not in self._data:
            if len(self._data) > MAX_LINE:
                raise self.lost("it sends lines without an end")
            try:
                self._limit()
                data = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError as error:
                raise self._late() from error
            except OSError as error:
                raise self.lost(error) from error
            if not data:
                raise self.lost("it closed the connection")
            self._data += data
        found, _, self._data = self._data.partition(mark)
        return found

    def read(self) -> dict[str, Any]:
        """One message. Errors: VssError."""
        line = self.read_past(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self.lost("it does not speak JSON") from error
        if not isinstance(message, dict):
            raise self.lost("it does not speak as it should")
        return message

    def ask(self, command: str, **arguments: Any) -> Any:
        """One command and its answer; events in between are passed over.

        Errors: VssError, VSS_E_WRITERERROR_NONRETRYABLE for a refusal.
        """
        self.write({"execute": command, "arguments": arguments} if arguments else {"execute": command})
        while "return" not in (answer := self.read()):
            if "error" in answer:
                words = answer["error"].get("desc", "") if isinstance(answer["error"], dict) else answer["error"]
                message = f"{self.who} of the guest {self.guest} refused {command} ({words}); see what it lacks"
                raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        return answer["return"]

    def interrupt(self) -> None:
        """Ends a wait of another thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is over already

    def close(self) -> None:
        """Lets the next client in."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class Agent(Lines):
    """The guest agent: synchronised first, since an answer to an earlier client may still be in the channel."""

    who = "the guest agent"

    def __init__(self, path: str, guest: str, end: float, opened: Opened = lambda _lines: None) -> None:
        super().__init__(path, guest, end, opened)
        try:
            self._synchronise()
        except VssError:
            self.close()
            raise

    def _synchronise(self) -> None:
        wanted = secrets.randbits(31)
        self.write({"execute": "guest-sync-delimited", "arguments": {"id": wanted}}, before=DELIMITER)
        while True:
            self.read_past(DELIMITER)
            if self.read().get("return") == wanted:
                return

    def count(self, command: str, **arguments: Any) -> int:
        """A command that answers with a number; what comes from a guest is not to be trusted. Errors: VssError."""
        value = self.ask(command, **arguments)
        if type(value) is not int or value < 0:
            raise self.lost(f"it answers {command} with no number")
        return value

    def frozen(self) -> bool:
        """Whether the guest's file systems are frozen, as the agent knows. Errors: VssError."""
        return bool(self.ask("guest-fsfreeze-status") == "frozen")

    def freeze(self, mount_points: list[str]) -> int:
        """Freezes these, or all when none is named; how many were. Errors: VssError."""
        if mount_points:
            return self.count("guest-fsfreeze-freeze-list", mountpoints=mount_points)
        return self.count("guest-fsfreeze-freeze")

    def thaw(self) -> int:
        """Thaws all; how many were frozen. Errors: VssError."""
        return self.count("guest-fsfreeze-thaw")


class Monitor(Lines):
    """QEMU's monitor (QMP)."""

    who = "the monitor"

    def __init__(self, path: str, guest: str, end: float, opened: Opened = lambda _lines: None) -> None:
        super().__init__(path, guest, end, opened)
        try:
            if "QMP" not in self.read():
                raise self.lost("it is no QMP monitor")
            self.ask("qmp_capabilities")
        except VssError:
            self.close()
            raise

    def state(self) -> str:
        """``running``, ``paused`` and so on. Errors: VssError."""
        return str(self.ask("query-status")["status"])

    def stop(self) -> None:
        """The processors stand still from its return on. Errors: VssError."""
        self.ask("stop")

    def go_on(self) -> None:
        """They run again. Errors: VssError."""
        self.ask("cont")

    def name(self) -> str:
        """The guest's name; empty when it was given none. Errors: VssError."""
        return str(self.ask("query-name").get("name", ""))
