"""The whole model: the coordinator's own code on a model of everything around it, and the moves that are possible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from model_clients import ModelRequester, ModelWriter
from model_host import ModelHost, ModelKernel, Op
from model_loop import ModelLoop
from model_providers import ModelCatalogue, ModelObjects, ModelVolume, ModelVolumes
from model_watch import Watch

from shadowset.daemon.commands import Commands
from shadowset.daemon.copy_devices import CopyDevices
from shadowset.daemon.house import House
from shadowset.daemon.limits import Limits
from shadowset.daemon.nbd import NbdProvider
from shadowset.daemon.providers import Providers
from shadowset.daemon.quiet import Quiet
from shadowset.daemon.registry import Registry
from shadowset.daemon.scratch import ScratchCopies
from shadowset.daemon.service_calls import ServiceCalls
from shadowset.daemon.snapshots import Snapshots
from shadowset.vss import requester_protocol as rp
from shadowset.vss.enums import Level
from shadowset.vss.paths import Paths

PATHS = Paths("/nowhere/run", "/nowhere/state", "/nowhere/etc")


@dataclass(frozen=True)
class Setting:
    """What there is: writers by level; for each requester the volumes of its set and the writers it asks for, or all.

    ``beside``: the requesters name their volumes when they start, so that their sets may be made side by side.
    """

    writers: tuple[Level, ...] = (Level.FRONT_END, Level.BACK_END)
    sets: tuple[tuple[str, ...], ...] = (("one", "two"),)
    enabled: tuple[tuple[int, ...], ...] = ()
    beside: bool = False
    context: int = 0
    broken_catalogue: bool = False
    from_hello: bool = False
    no_thread_for: tuple[str, ...] = ()
    volumes_per_set: int = 64


class World:
    """One run. ``moves`` are what can happen next; the first is what should."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.loop = ModelLoop()
        asyncio.events._set_running_loop(self.loop)
        self.ops: list[Op] = []
        self.watch = Watch(self)
        self.kernel = ModelKernel(self)
        names = sorted({name for each in setting.sets for name in each})
        self.volumes = {name: ModelVolume(self, name, number) for number, name in enumerate(names)}
        self.host = ModelHost(self)
        self.house = self._house()
        self.snapshots = Snapshots(self.house)
        self.service = ServiceCalls(self.house, self.snapshots)
        self.writers = [ModelWriter(self, number, level) for number, level in enumerate(setting.writers)]
        self.requesters = [ModelRequester(self, number, volumes) for number, volumes in enumerate(setting.sets)]
        self.loop.settle()
        while not setting.from_hello and (begun := self._not_begun()):
            self.apply(begun)

    def _not_begun(self) -> str:
        """The next move up to start-snapshot-set, when the steps before it are not to be explored."""
        early = [each for each in self.requesters if not isinstance(each.script[0], rp.StartSnapshotSet)]
        return (self._answers() or [f"{early[0].name} next"])[0] if early else ""

    def _house(self) -> House:
        volumes: Any = ModelVolumes(self.volumes)
        catalogue: Any = ModelCatalogue(self, self.setting.broken_catalogue)
        nbd: Any = NbdProvider(PATHS, volumes, Commands())
        nbd._objects = ModelObjects()
        limits = Limits(volumes_per_set=self.setting.volumes_per_set)
        parts: dict[str, Any] = {
            "paths": PATHS,
            "host": self.host,
            "limits": limits,
            "quiet": Quiet(),
            "catalogue": catalogue,
            "registry": Registry(limits),
            "volumes": volumes,
            "providers": Providers(PATHS, catalogue, nbd, lambda *arguments: None),
            "event": lambda *arguments, **named: None,
            "scratch": ScratchCopies(PATHS, Commands()),
            "copy_devices": CopyDevices(PATHS, Commands(), 1),
        }
        return House(**parts)

    # ---- what can happen ----

    def moves(self) -> list[str]:
        """The first is expected, the others are what may happen instead. Empty: everything has ended."""
        time = ["time passes"] if self._next_moment() is not None else []
        expected = self._expected()
        if not expected and all(each.task.done() for each in self.requesters) and not self.loop.tasks:
            return []
        expected = expected or time
        others = [*self._answers(), *self._faults(), *self._requests(expected=False), *time]
        return [*expected, *(each for each in others if each not in expected)]

    def _expected(self) -> list[str]:
        """At most one: what has been under way longest ends well, else a requester goes on; several go first."""
        answers, requests = self._answers(), self._requests(expected=True)
        return (requests or answers if len(self.requesters) > 1 else answers or requests)[:1]

    def _answers(self) -> list[str]:
        found = [f"{op.actor} {op.kind} ok" for op in self._first_ops()]
        return found + [f"{each.name} ok" for each in self.writers if each.asked]

    def _first_ops(self) -> list[Op]:
        seen: set[str] = set()
        found = []
        for op in self.ops:
            if op.actor not in seen:
                found.append(op)
            seen.add(op.actor)
        return found

    def _requests(self, expected: bool) -> list[str]:
        slowest_first = sorted(self.requesters, key=lambda each: -len(each.script))
        return [f"{r.name} {move}" for r in slowest_first for move, due in r.moves() if due is expected]

    def _faults(self) -> list[str]:
        found = [f"{op.actor} {op.kind} {fault}" for op in self._first_ops() for fault in op.faults]
        if all(each.task.done() for each in self.requesters):
            return found
        for writer in self.writers:
            found += [f"{writer.name} {how}" for how in ("veto", "fail") if writer.asked]
            found += [f"{writer.name} again"] if writer.answered else []
            found += [f"{writer.name} lost"] if writer.connected else []
        for volume in self.volumes.values():
            if volume.link.lost.is_set():
                found.append(f"{volume.name} back")
            else:
                found.append(f"{volume.name} lost")
                found += [f"{volume.name} lost-after"] if any(op.actor == volume.name for op in self.ops) else []
        found += [f"guard{n} dies" for n, guard in enumerate(self.host.guards) if guard.alive and not guard.finished]
        return found

    def _next_moment(self) -> float | None:
        moments = [timer._when for timer in self.loop.timers()]  # type: ignore[attr-defined]
        moments += [guard.armed_until for guard in self.host.guards if guard.alive and guard.armed_until]
        moments += [volume.gate_until for volume in self.volumes.values() if volume.gate_until]
        return min((each for each in moments if each > self.loop.moment), default=None)

    # ---- making it happen ----

    def apply(self, move: str) -> None:
        """One move, and everything that follows from it at once."""
        self._dispatch(move)
        for guard in self.host.guards:
            guard.look()
        for volume in self.volumes.values():
            if volume.gate_until and not volume.closed:
                volume.open_gate()
        self.loop.settle()
        for guard in self.host.guards:
            guard.look()
        self.loop.settle()

    def _dispatch(self, move: str) -> None:
        if move == "time passes":
            moment = self._next_moment()
            assert moment is not None
            self.loop.pass_time(moment)
            return
        actor, _, what = move.partition(" ")
        for op in self._first_ops():
            kind, _, fault = what.partition(" ")
            if op.actor == actor and op.kind == kind and fault:
                self.ops.remove(op)
                op.end("" if fault == "ok" else fault)
                return
        self._actor(actor, what)()

    def _actor(self, actor: str, what: str) -> Callable[[], Any]:
        for writer in self.writers:
            if writer.name == actor:
                known = {"again": writer.again, "lost": writer.lose}
                return known.get(what) or partial(writer.answer, what)
        for requester in self.requesters:
            if requester.name == actor:
                name = "next_call" if what == "next" else what
                return getattr(requester, name)  # type: ignore[no-any-return]
        if actor in self.volumes:
            volume = self.volumes[actor]
            if what == "back":
                return lambda: self._come_back(volume)
            return lambda: volume.lose(after=what == "lost-after")
        return self.host.guards[int(actor.removeprefix("guard"))].die

    def _come_back(self, volume: ModelVolume) -> None:
        volume.come_back()
        builtin = self.house.providers.builtin
        self.loop.create_task(self.snapshots.reconcile(builtin, volume.name, volume.description.copies))

    # ---- what it looks like now ----

    def fingerprint(self) -> int:
        """Of everything that what follows depends on."""
        now = self.loop.moment
        sessions = {each.session_id: each.name for each in self.requesters}
        return hash(
            (
                self.loop.position(),
                tuple((op.actor, op.kind, op.future.done()) for op in self.ops),
                tuple(
                    (each.connected, len(each.asked), bool(each.answered), _told(each.told, sessions))
                    for each in self.writers
                ),
                tuple(
                    (each.link.lost.is_set(), max(0, round(each.gate_until - now, 4)), _copies(each))
                    for each in self.volumes.values()
                ),
                tuple((g.alive, g.expired, g.finished, round(g.armed_until - now, 4)) for g in self.host.guards),
                tuple(sorted(self.kernel.frozen)),
                len(self.host.journals),
                tuple((len(r.script), tuple(r.results), r.gone) for r in self.requesters),
                tuple(record.status for record in self.house.catalogue.sets.values()),  # type: ignore[attr-defined]
                len(self.house.catalogue.copies),  # type: ignore[attr-defined]
                self.house.quiet.active,
            )
        )

    def put_away(self) -> None:
        self.loop.put_away()
        asyncio.events._set_running_loop(None)


def _told(told: list[tuple[str, str, str]], sessions: dict[str, str]) -> tuple[Any, ...]:
    return tuple((sessions.get(session, ""), event, how) for session, event, how in told)


def _copies(volume: ModelVolume) -> tuple[bool, ...]:
    return tuple(pending for _, pending in volume.copies.values())
