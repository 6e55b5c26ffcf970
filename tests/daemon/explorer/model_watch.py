"""What must hold at every step, and at the end: each violation is an AssertionError that says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from shadowset.daemon.cut import GUARDIAN_GRACE_S
from shadowset.daemon.quiet import Quiet
from shadowset.daemon.snapshots import Snapshots
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import FREEZE_ORDER, SnapshotState, WriterEvent, WriterState

if TYPE_CHECKING:
    from model_clients import ModelRequester, ModelWriter
    from model_world import World


class Watch:
    """Told of what happens outside the coordinator, by the model; looks at the rest by itself."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._gone: Counter[str] = Counter()
        self.violations: list[str] = []
        self._commits: dict[str, list[tuple[str, tuple[int, ...]]]] = {}

    def require(self, holds: object, sentence: str) -> None:
        """Keep the violation: raised here, it might be caught by the code that is under test."""
        if not holds:
            self.violations.append(sentence)

    # ---- what happens ----

    def froze(self, descriptor: int) -> None:
        """A file system is frozen now: somebody must be there who thaws it in time."""
        world = self.world
        guard = next((each for each in reversed(world.host.guards) if descriptor in each.roots.values()), None)
        self.require(guard, "frozen when its guardian was no longer told of it")
        longest = world.house.limits.frozen_ms / 1000 + GUARDIAN_GRACE_S
        self.require(
            guard and 0 < guard.armed_until <= world.loop.moment + longest + 1e-3, "frozen without an armed guardian"
        )
        self.require(world.house.quiet.active, "frozen while files may be written")
        self.require(any(descriptor in each for each in world.host.journals.values()), "frozen but in no journal")

    def let_go(self, name: str) -> None:
        """A gate has opened or a file system has thawed."""
        self._gone[name] += 1

    def committed(self, volume: str, set_id: str) -> None:
        """A cut is exact only while everything of its set stands still."""
        members = self._members(set_id)
        still = all(self._still(each) for each in members) and self._writers_frozen(self._requester(set_id))
        since = tuple(self._gone[name] for each in members for name in (each, self._fs(each)))
        self._commits.setdefault(set_id, []).append((volume if still else "", since))

    def recorded(self, record: Any) -> None:
        """A set exists from now on: it must be whole, and of one instant."""
        cuts = self._commits.get(record.set_id, [])
        volumes = sorted(copy.original_volume for copy in record.snapshots)
        self.require(
            sorted(volume for volume, _ in cuts) == volumes, "a set is recorded whose copies are not all exact"
        )
        self.require(volumes == sorted(self._members(record.set_id)), "a set is recorded in part")
        self.require(len({since for _, since in cuts}) <= 1, "something went on between two cuts of a set")
        for copy in record.snapshots:
            self.require(
                copy.snapshot_id in self.world.volumes[copy.original_volume].copies, "a copy is recorded but gone"
            )

    def told(self, writer: ModelWriter, event: Any) -> None:
        """Row 7: freeze from the front end to the system, thaw the other way, and not while volumes stand still."""
        if event.event not in (WriterEvent.FREEZE, WriterEvent.THAW):
            return
        busy = {session for session, name, _ in writer.told if name == "freeze"}
        busy -= {session for session, name, _ in writer.told if name in ("thaw", "abort")}
        self.require(not busy - {event.session}, f"{writer.name} takes part in two sets at once")
        members = self._members(event.set)
        self.require(not any(self._fs_frozen(each) for each in members), f"{event.event} while a file system is frozen")
        self.require(not any(self.world.volumes[each].owed for each in members), f"{event.event} while writes are held")
        place = FREEZE_ORDER.index(writer.level)
        for other in self.world.writers:
            heard = {name: how for session, name, how in other.told if session == event.session}
            if (
                other is writer
                or not other.connected
                or "prepare-snapshot" not in heard
                or self._left_before(other, event.set)
            ):
                continue
            if event.event is WriterEvent.FREEZE and FREEZE_ORDER.index(other.level) < place:
                self.require(heard.get("freeze") in ("ok", "fail"), f"{writer.name} freezes before {other.name}")
            if event.event is WriterEvent.THAW and FREEZE_ORDER.index(other.level) > place:
                self.require(
                    "thaw" in heard or heard.get("freeze") == "sent", f"{writer.name} thaws before {other.name}"
                )

    # ---- what must hold whenever nothing moves ----

    def check(self) -> None:
        """Errors: AssertionError."""
        world = self.world
        self.require(not world.loop.complaints, f"{world.loop.complaints}")
        for descriptor in world.kernel.frozen:
            covered = any(
                guard.alive and not guard.finished and guard.armed_until and descriptor in guard.roots.values()
                for guard in world.host.guards
            )
            thawing = any(op.actor == f"fs{descriptor}" and op.kind == "_thaw" for op in world.ops)
            self.require(covered or thawing, "a file system is frozen, and nobody is about to thaw it")
            self.require(any(descriptor in each for each in world.host.journals.values()), "frozen but in no journal")
        self._after_a_crash()

    def _after_a_crash(self) -> None:
        """Were the coordinator killed now: reconciling leaves whole sets only."""
        world = self.world
        if not any(volume.copies for volume in world.volumes.values()):
            return
        catalogue = _Records(world.house.catalogue)
        house: Any = _After(catalogue, Quiet(), world)
        snapshots = Snapshots(house)
        left: Counter[str] = Counter()
        for volume in world.volumes.values():
            provider = _Instant(dict(volume.copies))
            _run(snapshots.reconcile(provider, volume.name, volume.description.copies))  # type: ignore[arg-type]
            pending = [copy for copy, (_, pending) in provider.copies.items() if pending]
            self.require(not pending, "a copy stays pending after a restart")
            left.update(set_id for set_id, _ in provider.copies.values())
        for set_id, count in left.items():
            self.require(
                catalogue.sets.get(set_id) == SnapshotState.CREATED, "a copy of no set is left after a restart"
            )
            wanted = [copy for copy in catalogue.copies.values() if copy.snapshot_set_id == set_id]
            self.require(count == len(wanted), "a part of a set is left after a restart")

    # ---- what must hold when everything has ended ----

    def final(self) -> None:
        """Errors: AssertionError."""
        world = self.world
        house = world.house
        self.require(all(requester.task.done() for requester in world.requesters), "a session does not end")
        for requester in world.requesters:
            error = requester.task.exception()
            self.require(error is None or not requester.backup, f"a session ends in an error: {error!r}")
        self.require(not world.loop.tasks, f"tasks are left: {world.loop.position()[0]}")
        self.require(
            not house.sessions and not house.quiet.active and not house.creation.busy, "something is still taken"
        )
        self.require(
            not world.kernel.frozen and not world.host.journals, "a file system stays frozen, or in the journal"
        )
        self.require(
            not any(volume.owed for volume in world.volumes.values()), "writes are held, and nobody lets them go"
        )
        self.require(all(guard.finished or not guard.alive for guard in world.host.guards), "a guardian is left")
        for requester in world.requesters:
            for writer in world.writers:
                self._told_the_end(requester, writer)

    def _told_the_end(self, requester: ModelRequester, writer: ModelWriter) -> None:
        heard = [(name, how) for session, name, how in writer.told if session == requester.session_id]
        sent = Counter(name for name, how in heard if how == "sent")
        self.require(all(count == 1 for count in sent.values()), f"{writer.name} is told twice: {sent}")
        if not writer.connected or not requester.session_id:
            return
        made = self._created(requester)
        self.require(not (made and sent["abort"]), f"{writer.name} is told to abort a set that was made")
        if sent["prepare-snapshot"] and not made:
            self.require(sent["abort"] == 1, f"{writer.name} is not told that the set was given up")
        if made and ("thaw", "ok") in heard:
            self.require(sent["post-snapshot"] == 1, f"{writer.name} is not told that the set was made")
        self.require(
            sent["backup-shutdown"] == sent["prepare-backup"], f"{writer.name} is not told that the backup is over"
        )

    # ---- help ----

    def _created(self, requester: ModelRequester) -> bool:
        sets = self.world.house.catalogue.sets  # type: ignore[attr-defined]
        record = sets.get(requester.plan.set_id) if requester.plan else None
        return record is not None and record.status is SnapshotState.CREATED

    def _requester(self, set_id: str) -> ModelRequester:
        return next(each for each in self.world.requesters if each.plan and each.plan.set_id == set_id)

    def _left_before(self, writer: ModelWriter, set_id: str) -> bool:
        """It takes no part any more since before freeze."""
        cast = self._requester(set_id).backup.cast
        progress = next(each.progress for each in cast.participants if each.writer is writer.registered)
        return progress.out and progress.failed is not WriterState.FAILED_AT_FREEZE  # type: ignore[no-any-return]

    def _members(self, set_id: str) -> list[str]:
        return [each.volume for each in self._requester(set_id).plan.snapshots]

    def _fs(self, volume: str) -> str:
        return f"fs{self.world.volumes[volume].descriptor}"

    def _fs_frozen(self, volume: str) -> bool:
        return self.world.volumes[volume].descriptor in self.world.kernel.frozen

    def _still(self, volume: str) -> bool:
        descriptor = self.world.volumes[volume].descriptor
        return self.world.volumes[volume].closed and (
            self._fs_frozen(volume) or descriptor in self.world.kernel.unsupported
        )

    def _writers_frozen(self, requester: ModelRequester) -> bool:
        for writer in self.world.writers:
            heard = {name: how for session, name, how in writer.told if session in (requester.session_id, "")}
            if "freeze" in heard and (heard["freeze"] not in ("ok", "fail") or "thaw" in heard or "lost" in heard):
                return False
        return True


class _Records:
    """The catalogue as the next coordinator finds it."""

    def __init__(self, catalogue: Any) -> None:
        self.sets = {set_id: record.status for set_id, record in catalogue.sets.items()}
        self.copies = dict(catalogue.copies)
        self._deleting = dict(catalogue._deleting)

    def snapshots(self, volume: str) -> list[Any]:
        copies = self.copies.items()
        return [copy for key, copy in copies if copy.original_volume == volume and key not in self._deleting]

    def deleting(self, volume: str) -> list[str]:
        return [each for each, where in self._deleting.items() if where == volume]

    def buried(self) -> set[str]:
        return set()  # no volume is removed in the model

    def aside(self, volume: str = "") -> list[Any]:
        return []  # deletion is not delayed in the model

    def forget_snapshot(self, snapshot_id: str) -> None:
        self.copies.pop(snapshot_id, None)

    def setting(self, name: str) -> str:
        return ""


class _After:
    """A house in which nobody makes a set."""

    def __init__(self, catalogue: _Records, quiet: Quiet, world: World) -> None:
        self.catalogue, self.quiet = catalogue, quiet
        self.paths, self.limits = world.house.paths, world.house.limits
        self.creation = type(world.house.creation)()
        self.event, self.event_of, self.scratch = world.house.event, world.house.event_of, world.house.scratch
        self.copy_devices = world.house.copy_devices

    @property
    def creating_set(self) -> str:
        return ""


class _Instant:
    """A provider that answers at once."""

    def __init__(self, copies: dict[str, tuple[str, bool]]) -> None:
        self.copies = copies

    async def delete(self, volume: str, copy_id: str) -> None:
        if self.copies.pop(copy_id, None) is None:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, "no such copy")

    async def unsurface(self, copy: Any) -> None:
        pass

    async def post_final_commit(self, volume: str, copy_id: str) -> None:
        self.copies[copy_id] = (self.copies[copy_id][0], False)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Something that waits for nobody."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("reconciling waits for somebody")
