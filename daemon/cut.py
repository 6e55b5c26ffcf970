"""The cut: freeze the file systems, hold, commit and release on every volume, thaw.

Invariants, each with what keeps it:

- Nothing stays frozen. ``let_go`` runs however the cut ends, also when it is cancelled; the guardian thaws when this
  process dies or stands still; the journal names the file systems for the case that both are killed.
- All commits lie in the time in which all volumes are held: the last answer to commit came before the earliest moment
  at which any gate may have opened by itself, and no provider's connection was lost meanwhile.
- The frozen file systems were frozen at every commit: the last answer came before the guardian's deadline.
- Between ``quiet.enter`` and ``quiet.leave`` nothing of ours writes to a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass

from shadowset.daemon.cast import Timeline
from shadowset.daemon.clock import now
from shadowset.daemon.freeze import FrozenRoot, freeze_roots, sync_roots, thaw_roots
from shadowset.daemon.guardian_link import Guard
from shadowset.daemon.house import House, together
from shadowset.daemon.process import despite_cancel, within
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider import Provider, VolumeFacts, translated
from shadowset.vss.provider_protocol import Held, Released
from shadowset.vss.requester_protocol import VolumeTimes

log = logging.getLogger(__name__)

RELEASE_MS = 2_000
THAW_PATIENCE_S = 30.0
GUARDIAN_GRACE_S = 0.25


@dataclass
class PlannedSnapshot:
    """One volume of a set: what is asked for, and what has become of it so far."""

    snapshot_id: str
    volume: str
    provider: Provider
    facts: VolumeFacts
    device_number: int = 0
    number: int = 0
    hold_sent: float = 0.0
    gate_opens: float = 0.0
    held: bool = False
    prepared: bool = False
    drain_ms: float = 0.0
    hold_ms: float = 0.0
    waited: int = 0
    cut_at: float = 0.0


class Cut:
    """The volumes of one set around their common instant. ``created_ns`` and ``skew_ms`` are valid after ``run``."""

    def __init__(
        self, house: House, set_id: str, persistent: bool, snapshots: list[PlannedSnapshot], timeline: Timeline
    ) -> None:
        self.created_ns = 0
        self.skew_ms = 0.0
        self.guardian: Guard | None = None
        self._house = house
        self._set_id = set_id
        self._persistent = persistent
        self._snapshots = snapshots
        self._timeline = timeline
        self._roots: list[FrozenRoot] = []
        self._first_commit = 0.0
        self._thawing: asyncio.Task[list[str]] | None = None
        self._strays: list[asyncio.Future[Released]] = []

    # ---- before the writers are frozen ----

    async def prepare(self) -> None:
        """Find and write out the file systems, start the guardian, leave the journal. Errors: VssError."""
        freeze = {each.volume: each.facts.freeze for each in self._snapshots if each.facts.freeze}
        self._roots = self._house.host.open_roots(freeze)
        started = now()
        limit = self._house.limits.flush_ms
        sentence = (
            f"writing out the set's file systems took longer than {limit} ms; try again when the host is less busy"
        )
        await within(limit, sync_roots(self._roots), Code.VSS_E_FLUSH_WRITES_TIMEOUT, sentence)
        self._timeline.add("coordinator", "flush", started)
        if self._roots:
            self.guardian = self._house.host.guard(self._roots)
            await self.guardian.ready()
            self._house.host.write_journal(self._set_id, self._roots)

    async def arm(self, deadline: float) -> None:
        """From here on the guardian thaws at ``deadline`` (``clock.now``) at the latest."""
        if self.guardian:
            await self.guardian.arm(deadline)

    def alarm(self) -> asyncio.Future[VssError] | None:
        """Set when the guardian expires or dies."""
        return self.guardian.alarm if self.guardian else None

    def put_away(self) -> None:
        """End the guardian, remove the journal, close the mount roots; later, when a thaw is still under way."""
        if self._thawing and not self._thawing.done():
            return
        if self.guardian:
            self.guardian.finish(all_thawed=not any(root.frozen for root in self._roots))
            self._house.host.remove_journal(self._set_id)
            self.guardian = None
        for root in self._roots:
            root.close()

    # ---- the cut itself ----

    async def run(self, deadline: float) -> None:
        """Freeze, hold, commit, release, thaw; all of it before ``deadline`` (``clock.now``). Errors: VssError."""
        deadline = min(deadline, now() + self._house.limits.frozen_ms / 1000)
        self._house.quiet.enter()
        try:
            await self.arm(deadline + GUARDIAN_GRACE_S)
            await self._freeze(deadline)
            await self._hold(deadline)
            await self._commit()
            self.check_unbroken()
        except BaseException:
            with contextlib.suppress(asyncio.CancelledError):  # the first cause is the one that counts
                await despite_cancel(self._let_go())
            raise
        troubles = await despite_cancel(self._let_go())
        if troubles:
            raise troubles[0]

    def check_unbroken(self) -> None:
        """Errors: VssError when a provider's connection was lost since ``prepare``, or the guardian has thawed."""
        for each in self._snapshots:
            if each.provider.lost(each.volume):
                raise VssError(
                    Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
                    f"the provider of volume {each.volume} has gone while the set was made; try again once it is back",
                )
        if self.guardian:
            self.guardian.check()

    async def _freeze(self, deadline: float) -> None:
        started = now()
        limit = (deadline - started) * 1000
        await within(
            limit,
            freeze_roots(self._roots, self._foreign),
            Code.VSS_E_FLUSH_WRITES_TIMEOUT,
            f"freezing the file systems {', '.join(root.path for root in self._roots)} took longer than {limit:.0f} ms",
        )
        for root in self._roots:
            self._timeline.add(f"file system {root.path}", "freeze", root.frozen_at)

    def _foreign(self, root: FrozenRoot) -> None:
        if self.guardian:
            self.guardian.forget(root)

    async def _hold(self, deadline: float) -> None:
        timeout_ms = int(min(self._house.limits.hold_ms, (deadline - now()) * 1000))
        if timeout_ms <= 0:
            names = ", ".join(each.volume for each in self._snapshots)
            raise VssError(
                Code.VSS_E_HOLD_WRITES_TIMEOUT,
                f"freezing the file systems of {names} took so long that no time was left to hold their writes; try "
                f"again when less is written to them",
            )
        await together(*(self._hold_one(each, timeout_ms) for each in self._snapshots))

    async def _hold_one(self, each: PlannedSnapshot, timeout_ms: int) -> None:
        each.hold_sent = now()
        each.gate_opens = each.hold_sent + timeout_ms / 1000
        sentence = f"volume {each.volume} could not hold its writes within {timeout_ms} ms"
        try:
            held: Held = await within(
                timeout_ms, each.provider.hold(each.volume, timeout_ms), Code.VSS_E_HOLD_WRITES_TIMEOUT, sentence
            )
        except VssError as error:
            raise self._failed(each, "hold", each.hold_sent, error) from None
        each.held = True
        each.drain_ms = held.drain_ms
        self._timeline.add(f"volume {each.volume}", "hold", each.hold_sent)

    def _failed(self, each: PlannedSnapshot, phase: str, started: float, error: VssError) -> VssError:
        error = translated(error, each.volume)
        self._timeline.add(f"volume {each.volume}", phase, started, error.code, error.message)
        elapsed, cause = (now() - started) * 1000, error.message
        while cause.startswith(f"volume {each.volume}: "):
            cause = cause.removeprefix(f"volume {each.volume}: ")
        return VssError(error.code, f"volume {each.volume} failed in {phase} after {elapsed:.0f} ms: {cause}")

    async def _commit(self) -> None:
        self.created_ns = time.time_ns()
        self._first_commit = now()
        await together(*(self._commit_one(each) for each in self._snapshots))
        ended = now()
        for each in self._snapshots:
            if ended >= each.gate_opens:
                raise VssError(
                    Code.VSS_E_HOLD_WRITES_TIMEOUT,
                    f"volume {each.volume} was held for {(ended - each.hold_sent) * 1000:.0f} ms before all volumes of "
                    f"the set were cut; its writes may have gone on by then; try again when the host is less busy",
                )
        cuts = [each.cut_at for each in self._snapshots]
        self.skew_ms = (max(cuts) - min(cuts)) * 1000 if cuts else 0.0

    async def _commit_one(self, each: PlannedSnapshot) -> None:
        started = now()
        left_ms = (each.gate_opens - started) * 1000
        work = each.provider.commit(each.volume, each.snapshot_id, self._set_id, self.created_ns, self._persistent)
        sentence = f"volume {each.volume} was not cut while its writes were held"
        try:
            committed = await within(left_ms, work, Code.VSS_E_HOLD_WRITES_TIMEOUT, sentence)
        except VssError as error:
            raise self._failed(each, "commit", started, error) from None
        each.number = committed.number
        each.cut_at = now()
        self._timeline.add(f"volume {each.volume}", "commit", started)

    # ---- letting go ----

    async def _let_go(self) -> list[VssError]:
        """Release and thaw, then put away.

        The releases are sent first, since thawing writes to the device; but no thaw waits for the answer of a provider
        that may be stuck.
        """
        try:
            releasing = asyncio.gather(*map(self._release_one, self._snapshots))
            await asyncio.sleep(0)
            thawing = self._thawing = asyncio.ensure_future(thaw_roots(self._roots, self._foreign))
            thawing.add_done_callback(lambda _: self._thawed())
            done, _ = await asyncio.wait([thawing], timeout=THAW_PATIENCE_S)
            troubles = [error for error in await releasing if error]
            if done:
                troubles += [VssError(Code.VSS_E_UNEXPECTED, sentence) for sentence in thawing.result()]
            else:
                sentence = f"thawing takes longer than {THAW_PATIENCE_S:.0f} s; it goes on, and the guardian stays"
                troubles.append(VssError(Code.VSS_E_UNEXPECTED, sentence))
            return troubles
        finally:
            self._house.quiet.leave()

    def _thawed(self) -> None:
        for root in self._roots:
            if root.thawed_at:
                self._timeline.add(f"file system {root.path}", "frozen", root.frozen_at, ended=root.thawed_at)
        self.put_away()

    async def _release_one(self, each: PlannedSnapshot) -> VssError | None:
        if not each.hold_sent:
            return None
        if not each.held:  # it may be stuck: tell it, but let nobody wait for it
            stray = asyncio.ensure_future(each.provider.release(each.volume))
            stray.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._strays.append(stray)
            return None
        started = now()
        sentence = f"volume {each.volume} did not let its writes go within {RELEASE_MS} ms; its gate opens by itself"
        try:
            released: Released = await within(
                RELEASE_MS, each.provider.release(each.volume), Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, sentence
            )
        except VssError as error:
            return self._failed(each, "release", started, error)
        each.hold_ms, each.waited = released.hold_ms, released.waited
        self._timeline.add(f"volume {each.volume}", "release", started)
        return None

    # ---- afterwards ----

    def times(self) -> list[VolumeTimes]:
        """What the cut cost each volume."""
        return [self._times(each) for each in self._snapshots]

    def _times(self, each: PlannedSnapshot) -> VolumeTimes:
        frozen = [
            root.thawed_at - root.frozen_at for root in self._roots if root.volume == each.volume and root.thawed_at
        ]
        offset = (each.cut_at - self._first_commit) * 1000 if each.cut_at else 0.0
        return VolumeTimes(
            each.volume, each.drain_ms, each.hold_ms, each.waited, max(frozen, default=0.0) * 1000, offset
        )
