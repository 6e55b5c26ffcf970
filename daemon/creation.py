"""Whose turn it is to make a shadow copy set: one session at a time, the others wait in the order of their calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from shadowset.vss.codes import Code, VssError

Tell = Callable[[int, str], None]
"""Called with how many are ahead, and a sentence about it."""


@dataclass(eq=False)
class Turn:
    """One session that makes a set or waits to. ``who`` names its requester in sentences about it."""

    session_id: str
    set_id: str
    who: str
    tell: Tell = lambda ahead, sentence: None
    since: float = 0.0
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class CreationQueue:
    """The turn of one session, and those that wait for theirs. Only the coordinator's loop calls it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.holder: Turn | None = None
        self._waiting: list[Turn] = []
        self._clock = clock

    async def take(self, turn: Turn, wait_ms: int) -> None:
        """Return when it is this one's turn. Errors: VSS_E_SNAPSHOT_SET_IN_PROGRESS after ``wait_ms`` (0: at once)."""
        if self.holder is None:
            self._grant(turn)
            return
        if wait_ms <= 0:
            raise self._refusal()
        self._waiting.append(turn)
        self._tell(turn)
        waiting = asyncio.ensure_future(turn.granted.wait())
        try:
            await asyncio.wait([waiting], timeout=wait_ms / 1000)
            if not turn.granted.is_set():
                raise self._refusal(f"; this one has waited {wait_ms / 1000:g} s for its turn")
        except BaseException:
            self.leave(turn.session_id)
            raise
        finally:
            waiting.cancel()

    @property
    def busy(self) -> bool:
        """Whether anybody has the turn or waits for it."""
        return self.holder is not None or bool(self._waiting)

    def holds(self, session_id: str) -> bool:
        """Whether it is this session's turn."""
        return self.holder is not None and self.holder.session_id == session_id

    def leave(self, session_id: str) -> None:
        """This session makes no set, or no longer. The next one's turn comes at once."""
        if self.holds(session_id):
            self.holder = None
            if self._waiting:
                self._grant(self._waiting.pop(0))
            behind = self._waiting
        else:
            places = [place for place, each in enumerate(self._waiting) if each.session_id == session_id]
            behind = self._waiting[places[0] + 1 :] if places else []
            self._waiting = [each for each in self._waiting if each.session_id != session_id]
        for each in behind:
            self._tell(each)

    def _grant(self, turn: Turn) -> None:
        self.holder, turn.since = turn, self._clock()
        turn.granted.set()

    def _tell(self, turn: Turn) -> None:
        ahead = self._waiting.index(turn) + 1
        sets = "one shadow copy set" if ahead == 1 else f"{ahead} shadow copy sets"
        turn.tell(ahead, f"waiting for {sets} to be made first; now it is the turn of {self._who()}")

    def _who(self) -> str:
        if self.holder is None:
            return "nobody"
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.holder.since))
        return f"{self.holder.who}, since {since}"

    def _refusal(self, more: str = "") -> VssError:
        return VssError(
            Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS,
            f"a shadow copy set is being made by {self._who()}{more}; wait for its end, or end that process",
        )
