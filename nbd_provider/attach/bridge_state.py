"""What is known of a bridge, in its volume's run-time directory: who keeps and serves the mount, and what it serves."""

from __future__ import annotations

import os
from typing import Final, TypeVar

import msgspec

from shadowset.nbd_provider.attach.client import Export
from shadowset.vss.processes import start_time

_STATUS: Final = "bridge.json"
_SERVING: Final = "serving.json"
T = TypeVar("T")


class Status(msgspec.Struct):
    """Written by the keeper: both processes by number and start, and how often a bridge was started again, and why."""

    keeper: int = 0
    keeper_started: int = 0
    bridge: int = 0
    bridge_started: int = 0
    restarts: int = 0
    cause: str = ""

    @property
    def runs(self) -> bool:
        """Whether one of them is there; it starts the other one again."""
        return _is(self.bridge, self.bridge_started) or _is(self.keeper, self.keeper_started)


class Serving(msgspec.Struct):
    """Written by the bridge: the export as the kernel knows it, and who serves it.

    ``resend`` tells whether this kernel gives a new bridge what a dead one has taken and not answered; ``stall_ms`` is
    how long nothing was answered when this bridge replaced one.
    """

    size: int
    flags: int
    minimum_block: int
    maximum_payload: int
    resend: bool
    pid: int
    stall_ms: float = 0.0

    @property
    def export(self) -> Export:
        """As the NBD client has it."""
        return Export(self.size, self.flags, self.minimum_block, self.maximum_payload)


def _is(pid: int, started: int) -> bool:
    return pid > 0 and start_time(pid) == started != 0


def serving(export: Export, resend: bool, stall_ms: float = 0.0) -> Serving:
    """What this process serves."""
    facts = export.size, export.flags, export.minimum_block, export.maximum_payload
    return Serving(*facts, resend, os.getpid(), stall_ms)


def load_status(directory: str) -> Status:
    """All zeros when there is none."""
    return _load(f"{directory}/{_STATUS}", Status) or Status()


def save_status(directory: str, status: Status) -> None:
    """Errors: OSError."""
    _save(f"{directory}/{_STATUS}", status)


def load_serving(directory: str) -> Serving | None:
    """None before the kernel has accepted the mount."""
    return _load(f"{directory}/{_SERVING}", Serving)


def save_serving(directory: str, facts: Serving) -> None:
    """Errors: OSError."""
    _save(f"{directory}/{_SERVING}", facts)


def forget(directory: str) -> None:
    """Remove both."""
    for name in (_STATUS, _SERVING):
        for path in (f"{directory}/{name}", f"{directory}/{name}.new"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass


def _load(path: str, kind: type[T]) -> T | None:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _save(path: str, value: msgspec.Struct) -> None:
    with open(f"{path}.new", "wb") as file:
        file.write(msgspec.json.encode(value))
    os.replace(f"{path}.new", path)
