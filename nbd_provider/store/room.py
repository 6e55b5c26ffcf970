"""How much room a storage has, and the events that its owner should hear of."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.settings import Limits
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
MAX_EVENTS: Final = 1024

COPY_LOST: Final = "copy-lost"
STORAGE_WARNING: Final = "storage-warning"
WRITES_REFUSED: Final = "writes-refused"
REVERT_STARTED: Final = "revert-started"
REVERT_FINISHED: Final = "revert-finished"
REVERT_STOPPED: Final = "revert-stopped"
MOVE_STARTED: Final = "move-started"
MOVE_FINISHED: Final = "move-finished"
MOVE_STOPPED: Final = "move-stopped"
LEVELS: Final = {STORAGE_WARNING: logging.WARNING} | dict.fromkeys(
    (REVERT_STARTED, REVERT_FINISHED, MOVE_STARTED, MOVE_FINISHED), logging.INFO
)


class Seen(NamedTuple):
    """What a look at the disk has found: bytes that the file system has left, and bytes that the storage takes."""

    free: int
    used: int

    def available(self, limits: Limits) -> int:
        """Bytes that the storage may still take."""
        return max(0, min(self.free, limits.max_size - self.used)) if limits.max_size else self.free


class WriteRefused(OSError):
    """Old data can be kept nowhere and no copy may be lost for the write; ``errno`` is that of the reason."""


@dataclass
class Event:
    """Something that happened to a storage; ``freed`` bytes were given back by it. Events of one run are numbered."""

    number: int
    time_ns: int
    kind: str
    message: str
    copy_id: str = ""
    cause: str = ""
    freed: int = 0


def used_bytes(storage: str) -> int:
    """Bytes that the storage takes on disk; files that cannot be looked at count for nothing."""
    total = 0
    for directory, _, names in os.walk(storage):
        for name in names:
            try:
                total += os.stat(f"{directory}/{name}").st_blocks * 512
            except OSError:
                continue
    return total


class Room:
    """Room of one storage; looks at the disk when asked, which is once for each growth of 256 slots.

    What was seen is remembered for those who must not wait for the disk. Any thread may look.
    """

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._count = 0
        self._counting = Lock()
        self._warned = False
        self._refusal = ""
        self._missing = 0
        self.on_event: Callable[[], None] = lambda: None
        """Called after each event, by the thread in which it happened."""
        self._seen: Seen | None = None

    def move(self, storage: str) -> None:
        """The storage is in another directory now."""
        self._storage, self._seen = storage, None

    def look(self) -> Seen:
        """At the disk, which may take its time. Errors: OSError."""
        disk = os.statvfs(self._storage)
        seen = self._seen = Seen(disk.f_bavail * disk.f_frsize, used_bytes(self._storage))
        return seen

    def available(self, limits: Limits) -> int:
        """Bytes that may still be taken, by the maximum or by the file system, whichever is less. Errors: OSError."""
        return self.look().available(limits)

    def short(self, limits: Limits, wanted: int) -> bool:
        """Whether fewer bytes were left than are wanted when last looked at; so, too, before the first look."""
        return self._seen is None or self._seen.available(limits) < wanted

    def _shortage(self, limits: Limits, seen: Seen, wanted: int) -> str:
        """What is too small, and what to do about it."""
        available = seen.available(limits)
        if limits.max_size and available < seen.free:
            limit, step = f"maximum size of {limits.max_size} bytes", "give it a higher maximum"
        else:
            limit = f"file system of shadow storage {self._storage}"
            step = "free space on it, or move the storage to a larger file system"
        return f"the {limit} leaves {available} bytes and {wanted} are wanted; delete copies or {step}"

    def slots(self, limits: Limits, wanted: int, least: int, slot_size: int) -> int:
        """How many of the ``wanted`` slots may be taken. Errors: OSError (ENOSPC) when it is fewer than ``least``."""
        seen = self.look()
        available = seen.available(limits)
        self._warn(limits, seen.used, available - wanted * slot_size)
        slots = min(wanted, available // slot_size)
        if slots < least:
            self._missing = least * slot_size
            raise OSError(errno.ENOSPC, self._shortage(limits, seen, self._missing))
        self._refusal, self._missing = "", 0
        return slots

    def _warn(self, limits: Limits, used: int, available: int) -> None:
        """Once each time that the threshold is passed."""
        total = used + max(0, available)
        if used * 100 < limits.warn_percent * total:
            self._warned = False
        elif not self._warned:
            self._warned = True
            self.add(
                STORAGE_WARNING,
                f"shadow storage {self._storage} is full to {used * 100 // max(total, 1)} percent; delete copies or "
                f"give it more room before it is full",
            )

    def refused(self, volume: str, reason: str) -> None:
        """Writes to the live volume are refused; told once until there is room again."""
        if not self._refusal:
            self.add(WRITES_REFUSED, f"volume {volume} refuses writes, since no copy may be lost for them: {reason}")
        self._refusal = reason

    def refusal(self, available: int) -> str:
        """Why writes are refused, "" while they are not, with so many bytes that the storage may still take."""
        if self._missing and available >= self._missing:
            self._refusal, self._missing = "", 0
        return self._refusal

    def add(self, kind: str, message: str, entry: layout.Entry | None = None) -> Event:
        """Remember an event and log it."""
        event = Event(0, time.time_ns(), kind, message)
        if entry is not None:
            event.copy_id, event.cause = str(entry.copy_id), layout.CAUSES[entry.cause]
            event.time_ns, event.freed = entry.lost_ns, entry.lost_bytes
        log.log(LEVELS.get(kind, logging.ERROR), "%s", message)
        with self._counting:
            self._count += 1
            event.number = self._count
            self.events.append(event)
        self.on_event()
        return event

    @property
    def count(self) -> int:
        """The number of the latest event."""
        return self._count

    def inherit(self, events: Iterable[Event]) -> None:
        """Events of a run before, that nobody has heard of, count as events of this run."""
        with self._counting:
            for event in events:
                self._count += 1
                event.number = self._count
                self.events.append(event)

    def check_new_copy(self, limits: Limits, wanted: int, volume: str, look: bool) -> None:
        """Whether a new copy would find any room, by a look at the disk or by what was seen last.

        Errors: VSS_E_INSUFFICIENT_STORAGE when not, OSError.
        """
        seen = self.look() if look or self._seen is None else self._seen
        if seen.available(limits) < wanted:
            raise VssError(
                Code.VSS_E_INSUFFICIENT_STORAGE,
                f"volume {volume}: shadow storage {self._storage} is full: for a new copy "
                f"{self._shortage(limits, seen, wanted)}, or choose the policy delete-oldest",
            )


def victim(entries: list[layout.Entry], now_ns: int) -> layout.Entry | None:
    """The living copy to lose first: the lowest priority, then the oldest; one that is held is never it."""
    candidates = [entry for entry in entries if entry.state in layout.LIVE_STATES and entry.hold_until_ns <= now_ns]
    return min(candidates, key=lambda entry: (entry.priority, entry.number), default=None)
