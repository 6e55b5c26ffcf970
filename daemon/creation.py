"""Whose turn it is to make a shadow copy set.

Sets that share no volume and no writer are made side by side; one that shares something waits until those before it
have ended, in the order of the calls. A set whose requester has not said which volumes it will hold is made alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from shadowset.vss.codes import Code, VssError

Tell = Callable[[int, str], None]
"""Called with how many are ahead, and a sentence about it."""


@dataclass(frozen=True)
class Footprint:
    """What a set needs for itself. ``volumes`` None: anything.

    ``devices`` are those that its file systems are on, ``below`` those that hold its data: a volume inside a file on
    another one cannot be cut while that one is frozen.
    """

    volumes: frozenset[str] | None = None
    writers: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    below: frozenset[str] = frozenset()

    def covers(self, other: Footprint) -> bool:
        """Whether the other's volumes are among these."""
        if self.volumes is None or other.volumes is None:
            return self.volumes is None
        return other.volumes <= self.volumes or (bool(other.devices) and other.devices <= self.devices)

    def meets(self, other: Footprint) -> bool:
        """Whether the two cannot be made at the same time."""
        if self.volumes is None or other.volumes is None:
            return True
        shared = self.volumes & other.volumes or self.writers & other.writers
        nested = self.devices & (other.devices | other.below) or self.below & other.devices
        return bool(shared or nested)


@dataclass(eq=False)
class Turn:
    """One session that makes a set or waits to. ``who`` names its requester in sentences about it."""

    session_id: str
    set_id: str
    who: str
    tell: Tell = lambda ahead, sentence: None
    footprint: Footprint = Footprint()
    since: float = 0.0
    ahead: int = 0
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class CreationQueue:
    """The turns of sessions, and those that wait for theirs. Only the coordinator's loop calls it."""

    def __init__(self, at_once: int = 8, clock: Callable[[], float] = time.time) -> None:
        self._holders: list[Turn] = []
        self._waiting: list[Turn] = []
        self._at_once = at_once
        self._clock = clock

    async def take(self, turn: Turn, wait_ms: int) -> None:
        """Return when it is this one's turn. Errors: VSS_E_SNAPSHOT_SET_IN_PROGRESS after ``wait_ms`` (0: at once)."""
        if not self._in_the_way(turn):
            self._grant(turn)
            return
        if wait_ms <= 0:
            raise self._refusal(turn)
        self._waiting.append(turn)
        self._tell()
        waiting = asyncio.ensure_future(turn.granted.wait())
        try:
            await asyncio.wait([waiting], timeout=wait_ms / 1000)
            if not turn.granted.is_set():
                raise self._refusal(turn, f"; this one has waited {wait_ms / 1000:g} s for its turn")
        except BaseException:
            self.leave(turn.session_id)
            raise
        finally:
            waiting.cancel()

    def leave(self, session_id: str) -> None:
        """This session makes no set, or no longer. Whoever waited for it alone has the turn at once."""
        self._holders = [each for each in self._holders if each.session_id != session_id]
        self._waiting = [each for each in self._waiting if each.session_id != session_id]
        for turn in list(self._waiting):
            if not self._in_the_way(turn):
                self._waiting.remove(turn)
                self._grant(turn)
        self._tell()

    # ---- who has the turn, and to what ----

    @property
    def busy(self) -> bool:
        """Whether anybody has the turn or waits for it."""
        return bool(self._holders or self._waiting)

    @property
    def set_ids(self) -> set[str]:
        """The sets that are being made."""
        return {each.set_id for each in self._holders}

    def holds(self, session_id: str) -> bool:
        """Whether it is this session's turn."""
        return any(each.session_id == session_id for each in self._holders)

    def uses(self, volume: str = "") -> bool:
        """Whether a set that is being made holds, or may hold, this volume; "" stands for any."""
        held = [each.footprint.volumes for each in self._holders]
        return any(not volume or volumes is None or volume in volumes for volumes in held)

    def writers_of_others(self, session_id: str) -> set[str]:
        """The writers (by instance) that take part in the sets of other sessions just now."""
        others = [each for each in self._holders if each.session_id != session_id]
        return {writer for each in others for writer in each.footprint.writers}

    # ---- the order ----

    def _in_the_way(self, turn: Turn) -> list[Turn]:
        """Those before this one that it has to wait for."""
        place = self._waiting.index(turn) if turn in self._waiting else len(self._waiting)
        before = [*self._holders, *self._waiting[:place]]
        if len(self._holders) >= self._at_once:
            return before
        return [each for each in before if each.footprint.meets(turn.footprint)]

    def _grant(self, turn: Turn) -> None:
        turn.since = self._clock()
        self._holders.append(turn)
        turn.granted.set()

    def _tell(self) -> None:
        """Tell those that wait, where their place has changed."""
        for turn in self._waiting:
            ahead = len(self._in_the_way(turn))
            if ahead != turn.ahead:
                turn.ahead = ahead
                sets = "one shadow copy set" if ahead == 1 else f"{ahead} shadow copy sets"
                turn.tell(ahead, f"waiting for {sets} to be made first; now it is the turn of {self._who(turn)}")

    def _who(self, turn: Turn) -> str:
        holders = [each for each in self._holders if each.footprint.meets(turn.footprint)] or self._holders
        if not holders:
            return "nobody"
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holders[0].since))
        return f"{holders[0].who}, since {since}"

    def _refusal(self, turn: Turn, more: str = "") -> VssError:
        return VssError(
            Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS,
            f"a shadow copy set is being made by {self._who(turn)}{more}; wait for its end, or end that process",
        )
