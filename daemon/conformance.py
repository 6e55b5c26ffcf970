"""What every provider must do, as checks that its author can run: ``problems = await check_provider(bench)``.

The bench brings a volume that may be written to; the checks make copies of it, in the order of calls that the
coordinator keeps to, and look at them. They need no coordinator, and root only where the provider does.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from shadowset.daemon.process import in_thread
from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.enums import Attribute, ProviderCapability, SnapshotState
from shadowset.vss.provider import ALLOWED_CODES, Provider, VolumeFacts
from shadowset.vss.provider_protocol import CopyInfo
from shadowset.vss.requester_protocol import SnapshotProperties

PATIENCE_S = 30.0
HOLD_MS = 10_000
SHORT_HOLD_MS = 300
UNKNOWN = "00000000-0000-4000-8000-000000000000"
T = TypeVar("T")


class Bench(Protocol):
    """What the author of a provider brings. ``volume`` is a name, device or path as a requester gives it."""

    volume: str

    async def make(self) -> Provider:
        """A new instance, as after a restart of the coordinator; the one before has been stopped."""

    def change(self, mark: bytes) -> None:
        """Write a mark of eight bytes to the volume, durably; waits while writes are held. Called in a thread."""

    def read(self, place: str) -> bytes:
        """The mark in a copy that was surfaced at ``place``. Called in a thread."""

    def recover(self, place: str, mark: bytes) -> None:
        """Write a mark into a copy whose writable layer is the block device or directory ``place``. In a thread."""


@dataclass(frozen=True)
class Problem:
    """A check that failed, and what was wrong."""

    check: str
    sentence: str


@dataclass
class _Run:
    """One check: a provider that was started, and the copies made so far, newest last."""

    bench: Bench
    provider: Provider
    facts: VolumeFacts
    copies: list[SnapshotProperties] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.facts.name

    async def restart(self) -> None:
        await _timed(self.provider.stop(), "stop")
        self.provider = await self.bench.make()
        await _timed(
            self.provider.start([copy for copy in self.copies if copy.status is SnapshotState.CREATED]), "start"
        )

    async def change(self, mark: bytes) -> None:
        await _timed(in_thread(lambda: self.bench.change(mark)), "writing to the live volume")

    async def prepare(self, copy: SnapshotProperties) -> None:
        set_id = copy.snapshot_set_id
        await _timed(self.provider.begin_prepare(self.name, set_id, copy.snapshot_id), "begin_prepare")
        await _timed(self.provider.end_prepare(self.name, set_id), "end_prepare")
        await _timed(self.provider.pre_commit(self.name, set_id), "pre_commit")

    async def cut(self, copy: SnapshotProperties) -> None:
        """Up to pre_final_commit: the copy is pending."""
        await self.prepare(copy)
        await _timed(self.provider.hold(self.name, HOLD_MS), "hold")
        try:
            await _timed(self.commit(copy), "commit")
            _require(not self.provider.lost(self.name), "lost() is true although nothing happened")
        finally:
            await _timed(self.provider.release(self.name), "release")
        await _timed(self.provider.post_commit(self.name, copy.snapshot_set_id), "post_commit")
        await _timed(self.provider.pre_final_commit(self.name, copy.snapshot_set_id), "pre_final_commit")

    async def commit(self, copy: SnapshotProperties) -> None:
        await self.provider.commit(self.name, copy.snapshot_id, copy.snapshot_set_id, copy.created_ns, True)

    async def finish(self, copy: SnapshotProperties) -> None:
        await _timed(self.provider.post_final_commit(self.name, copy.snapshot_id), "post_final_commit")
        copy.status = SnapshotState.CREATED
        await _timed(self.provider.surface(copy), "surface")

    async def take(self, mark: bytes) -> SnapshotProperties:
        """A whole copy of the volume with this mark."""
        await self.change(mark)
        copy = self.planned()
        await self.cut(copy)
        await self.finish(copy)
        return copy

    def planned(self) -> SnapshotProperties:
        number = len(self.copies) + 1
        copy = SnapshotProperties(
            snapshot_id=str(uuid.uuid4()),
            snapshot_set_id=str(uuid.uuid4()),
            snapshots_count=1,
            device_object=self.provider.place(number),
            original_volume=self.name,
            originating_machine="bench",
            service_machine="bench",
            exposed_name="",
            exposed_path="",
            provider_id=self.provider.info.provider_id,
            attributes=int(Attribute.PERSISTENT | Attribute.NO_AUTO_RELEASE),
            created_ns=time.time_ns(),
            status=SnapshotState.PREPARING,
            size=self.facts.size,
            number=0,
            device_number=number,
            mount_points=self.facts.mount_points,
        )
        self.copies.append(copy)
        return copy

    async def read(self, copy: SnapshotProperties) -> bytes:
        end = time.monotonic() + PATIENCE_S
        while not os.path.exists(copy.device_object):
            _require(time.monotonic() < end, f"nothing appears at {copy.device_object} after surface")
            await asyncio.sleep(0.02)
        return await _timed(in_thread(lambda: self.bench.read(copy.device_object)), "reading the copy")

    async def delete(self, copy: SnapshotProperties) -> None:
        await _timed(self.provider.unsurface(copy), "unsurface")
        await _timed(self.provider.delete(self.name, copy.snapshot_id), "delete")
        copy.status = SnapshotState.DELETED

    async def told(self, copy: SnapshotProperties) -> CopyInfo | None:
        found = await _timed(self.provider.copies(self.name), "copies")
        return next((info for info in found if info.copy_id == copy.snapshot_id and not info.lost), None)

    async def clean_up(self) -> None:
        for copy in self.copies:
            try:
                await self.delete(copy)
            except Exception:
                continue  # what cannot be deleted has been told by then, or is gone


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


async def _timed(work: Awaitable[T], what: str) -> T:
    try:
        return await asyncio.wait_for(work, PATIENCE_S)
    except TimeoutError:
        raise AssertionError(f"{what} did not end within {PATIENCE_S:.0f} s") from None


async def _refused(work: Awaitable[object], what: str, *codes: Code) -> None:
    """``work`` fails with a VssError that has one of the codes, or any allowed one."""
    try:
        await _timed(work, what)
    except VssError as error:
        _require(error.code in (codes or ALLOWED_CODES), f"{what} failed with {describe(error.code)}: {error.message}")
        _require(len(error.message) > 10, f"{what} failed without a sentence that says why")
        return
    raise AssertionError(f"{what} did not fail")


# ---- the checks ----


async def check_properties(run: _Run) -> None:
    """It says who it is."""
    info = run.provider.info
    for name in ("provider_id", "version_id", "class_id"):
        value = getattr(info, name)
        _require(str(uuid.UUID(value)) == value, f"{name} {value!r} is no GUID in lower case")
    _require(bool(info.name and info.version), "name or version is empty")
    _require(bool(info.capabilities & ProviderCapability.COMPLIANT), "the capabilities lack COMPLIANT")


async def check_find(run: _Run) -> None:
    """It finds its volume by name, and nobody else's."""
    again = await run.provider.find(run.name)
    _require(again is not None and again.name == run.name, f"find does not find {run.name!r} by its own name")
    for stranger in ("no-such-volume-here", "/no/such/path", "no:such:name"):
        _require(await run.provider.find(stranger) is None, f"find claims {stranger!r}")
    _require(await run.provider.is_volume_supported(run.name), "the volume is found, but not supported")


async def check_instant(run: _Run) -> None:
    """A copy shows the volume as it was at its cut, and nobody can change it."""
    copy = await run.take(b"before--")
    await run.change(b"after---")
    _require(await run.read(copy) == b"before--", "the copy does not show what was there at its cut")
    _require(_refuses_writes(copy.device_object), f"the copy at {copy.device_object} can be written to")
    await run.provider.surface(copy)
    _require(await run.read(copy) == b"before--", "after a second surface the copy shows something else")
    for _ in range(2):
        await run.provider.unsurface(copy)


def _refuses_writes(place: str) -> bool:
    path = f"{place}/conformance" if os.path.isdir(place) else place
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if path != place else 0), 0o600)
    except OSError:
        return True
    os.close(descriptor)
    return False


async def check_neighbours(run: _Run) -> None:
    """Any copy can go, and the others stay as they are."""
    first, second, third = [await run.take(mark) for mark in (b"first---", b"second--", b"third---")]
    await run.change(b"live----")
    await run.delete(second)
    _require(await run.told(second) is None, "a copy that was deleted is still listed")
    for copy, mark in ((first, b"first---"), (third, b"third---")):
        _require(await run.read(copy) == mark, "a copy shows something else after its neighbour was deleted")
    await _refused(run.provider.delete(run.name, second.snapshot_id), "a second delete", Code.VSS_E_OBJECT_NOT_FOUND)
    await _refused(run.provider.delete(run.name, UNKNOWN), "deleting an unknown copy", Code.VSS_E_OBJECT_NOT_FOUND)


async def check_pending(run: _Run) -> None:
    """A copy is pending until its set exists, whatever is restarted meanwhile."""
    await run.change(b"pending-")
    copy = run.planned()
    await run.cut(copy)
    info = await run.told(copy)
    _require(info is not None and info.pending, "a copy that was committed is not listed as pending")
    _require(info is not None and info.set_id == copy.snapshot_set_id, "the pending copy has another set id")
    await run.restart()
    info = await run.told(copy)
    _require(info is not None and info.pending, "a pending copy is not listed as pending after a restart")
    await run.finish(copy)
    await _timed(run.provider.post_final_commit(run.name, copy.snapshot_id), "a second post_final_commit")
    info = await run.told(copy)
    _require(info is not None and not info.pending, "the copy is still pending after post_final_commit")
    _require(run.name in await run.provider.volumes(), "volumes() does not name the volume, which has a copy")
    await run.restart()
    info = await run.told(copy)
    _require(info is not None and not info.pending, "a finished copy is lost or pending after a restart")
    _require(await run.read(copy) == b"pending-", "a finished copy shows something else after a restart")


async def check_abort(run: _Run) -> None:
    """A set that does not come to be leaves nothing, before its cut and after."""
    early, late = run.planned(), run.planned()
    await run.prepare(early)
    await _aborted(run, early)
    await run.cut(late)
    await _aborted(run, late)
    await run.take(b"aborted-")


async def _aborted(run: _Run, copy: SnapshotProperties) -> None:
    try:
        await _timed(run.provider.abort(run.name, copy.snapshot_id), "abort")
    except VssError as error:
        _require(
            error.code == Code.VSS_E_OBJECT_NOT_FOUND, f"abort failed with {describe(error.code)}: {error.message}"
        )
    _require(await run.told(copy) is None, "a copy is still listed after abort")


async def check_forgotten_set(run: _Run) -> None:
    """A requester that gave up says nothing: the next set begins all the same."""
    lost = run.planned()
    await _timed(run.provider.begin_prepare(run.name, lost.snapshot_set_id, lost.snapshot_id), "begin_prepare")
    copy = await run.take(b"next----")
    _require(await run.read(copy) == b"next----", "the set after a forgotten one shows something else")


async def check_layer(run: _Run) -> None:
    """What writers write into a fresh copy is that copy's alone, and its last change."""
    if "auto-recovery" in run.provider.info.lacks:
        return
    neighbour = await run.take(b"earlier-")
    await run.change(b"raw-----")
    copy, given_up = run.planned(), run.planned()
    await run.cut(copy)
    place = await _timed(run.provider.open_layer(run.name, copy.snapshot_id), "open_layer")
    await _timed(in_thread(lambda: run.bench.recover(place, b"recover-")), "writing into the layer")
    await _timed(run.provider.seal(run.name, copy.snapshot_id), "seal")
    await run.finish(copy)
    _require(await run.read(copy) == b"recover-", "the copy does not show what was written into its layer")
    _require(_refuses_writes(copy.device_object), "a sealed copy can be written to")
    _require(await run.read(neighbour) == b"earlier-", "an earlier copy shows what was written into another's layer")
    await run.cut(given_up)
    place = await _timed(run.provider.open_layer(run.name, given_up.snapshot_id), "open_layer")
    await _timed(in_thread(lambda: run.bench.recover(place, b"given-up")), "writing into the layer")
    await _aborted(run, given_up)
    later = run.planned()
    await run.cut(later)
    await run.finish(later)
    _require(await run.read(later) == b"raw-----", "the live volume shows what was written into a copy's layer")


async def check_hold(run: _Run) -> None:
    """Between hold and release no write gets through."""
    if not run.facts.holds:
        return
    copy = run.planned()
    await run.prepare(copy)
    await run.provider.hold(run.name, HOLD_MS)
    writing = in_thread(lambda: run.bench.change(b"held----"))
    await asyncio.sleep(0.3)
    passed = writing.done()
    await run.commit(copy)
    await run.provider.release(run.name)
    await _timed(writing, "a write that was held")
    _require(not passed, "a write got through while writes were held")
    await run.provider.post_commit(run.name, copy.snapshot_set_id)
    await run.finish(copy)
    _require(await run.read(copy) != b"held----", "the copy shows a write that came after its cut")


async def check_hold_ends(run: _Run) -> None:
    """Writes flow again in time whatever happens, and there is no cut after that."""
    if not run.facts.holds:
        return
    copy = run.planned()
    await run.prepare(copy)
    await run.provider.hold(run.name, SHORT_HOLD_MS)
    await run.change(b"flowing-")
    await _refused(run.commit(copy), "a commit after the hold has ended", Code.VSS_E_HOLD_WRITES_TIMEOUT)
    await _aborted(run, copy)
    try:
        await run.provider.release(run.name)
    except VssError as error:
        _require(error.code in ALLOWED_CODES, f"release failed with {describe(error.code)}")
    await run.take(b"again---")


async def check_unknown(run: _Run) -> None:
    """What is not there is said with a code that a provider may return."""
    provider, name = run.provider, run.name
    await _refused(provider.post_final_commit(name, UNKNOWN), "finishing an unknown copy")
    await _refused(provider.keep(name, UNKNOWN, 1, None), "keeping an unknown copy")
    await _refused(provider.begin_prepare("no:such:volume", UNKNOWN, UNKNOWN), "preparing an unknown volume")
    await _refused(provider.copies("no:such:volume"), "listing copies of an unknown volume")


CHECKS: tuple[Callable[[_Run], Awaitable[None]], ...] = (
    check_properties,
    check_find,
    check_instant,
    check_neighbours,
    check_pending,
    check_abort,
    check_forgotten_set,
    check_layer,
    check_hold,
    check_hold_ends,
    check_unknown,
)


async def check_provider(bench: Bench) -> list[Problem]:
    """All checks, each on a provider that was just started; what is wrong, nothing for a good one."""
    return [problem for check in CHECKS if (problem := await _check(bench, check))]


async def _check(bench: Bench, check: Callable[[_Run], Awaitable[None]]) -> Problem | None:
    provider = await bench.make()
    run = None
    try:
        await _timed(provider.start([]), "start")
        facts = await _timed(provider.find(bench.volume), "find")
        if facts is None:
            return Problem(check.__name__, f"find does not know the bench's volume {bench.volume!r}")
        run = _Run(bench, provider, facts)
        await check(run)
    except AssertionError as error:
        return Problem(check.__name__, str(error))
    except VssError as error:
        note = "" if error.code in ALLOWED_CODES else ", a code that no provider may return"
        return Problem(check.__name__, f"a call failed with {describe(error.code)}{note}: {error.message}")
    except Exception as error:
        return Problem(check.__name__, f"a call raised {error!r} instead of VssError")
    finally:
        if run:
            await run.clean_up()
        await (run.provider if run else provider).stop()
    return None
