"""A model of what lies below the coordinator: the kernel and the guardian. Nothing here decides anything.

Whatever would take time is an ``Op``: the explorer chooses when it ends, and how.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shadowset.daemon.freeze import FrozenRoot, Kernel
from shadowset.daemon.guardian_link import Guard
from shadowset.vss.codes import Code, VssError

if TYPE_CHECKING:
    from model_world import World


@dataclass(eq=False)
class Op:
    """Something under way outside. ``effect`` happens, and the result is delivered, when the explorer says so."""

    actor: str
    kind: str
    effect: Callable[[], Any]
    future: asyncio.Future[Any]
    faults: tuple[str, ...] = ()

    def end(self, fault: str = "") -> None:
        try:
            value = self.effect() if not fault else self.fail(fault)
        except Exception as error:
            if not self.future.done():
                self.future.set_exception(error)
        else:
            if not self.future.done():
                self.future.set_result(value)

    def fail(self, fault: str) -> Any:
        """With this fault instead; the guardian knows none."""


class ModelKernel(Kernel):
    """File systems that are frozen or not."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.frozen: set[int] = set()
        self.foreign: set[int] = set()
        self.unsupported: set[int] = set()
        self.fault = 0

    def clock(self) -> float:
        return self.world.loop.moment

    def run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        name = next(each for each in work.__code__.co_names if each in ("_syncfs", "_freeze", "_thaw"))
        if name in self.world.setting.no_thread_for:
            raise RuntimeError("can't start new thread")
        root = (work.__defaults__ or [each.cell_contents for each in work.__closure__ or ()])[0]
        faults = {"_syncfs": ("EIO",), "_freeze": ("EIO", "EBUSY", "EOPNOTSUPP"), "_thaw": ()}[name]
        op = _KernelOp(f"fs{root.descriptor}", name, work, self.world.loop.create_future(), faults)
        op.kernel = self
        self.world.ops.append(op)
        return op.future

    def sync(self, descriptor: int) -> None:
        if self.fault == errno.EIO:
            raise OSError(errno.EIO, "Input/output error")

    def freeze(self, descriptor: int) -> None:
        if self.fault == errno.EBUSY:
            self.foreign.add(descriptor)
        if self.fault == errno.EOPNOTSUPP:
            self.unsupported.add(descriptor)
        if self.fault:
            raise OSError(self.fault, errno.errorcode[self.fault])
        self.world.watch.require(descriptor not in self.frozen, "frozen twice")
        self.foreign.discard(descriptor)
        self.frozen.add(descriptor)
        self.world.watch.froze(descriptor)

    def thaw(self, descriptor: int) -> str:
        self.world.watch.require(descriptor not in self.foreign, "thawed what somebody else had frozen")
        self.thaw_now(descriptor)
        return ""

    def thaw_now(self, descriptor: int) -> None:
        if descriptor in self.frozen:
            self.frozen.discard(descriptor)
            self.world.watch.let_go(f"fs{descriptor}")

    def close(self, descriptor: int) -> None:
        pass


class _KernelOp(Op):
    kernel: ModelKernel

    def fail(self, fault: str) -> Any:
        self.kernel.fault = getattr(errno, fault)
        try:
            return self.effect()
        finally:
            self.kernel.fault = 0


class ModelGuard(Guard):
    """The guardian process: alive, armed, expired or finished."""

    def __init__(self, world: World, set_id: str, roots: list[FrozenRoot]) -> None:
        super().__init__()
        self.world = world
        self.set_id = set_id
        self.roots = {root.index: root.descriptor for root in roots}
        self.alive = True
        self.finished = False
        self.armed_until = 0.0
        self.expired = False
        self._report("ready")

    def _report(self, line: str) -> None:
        future = self.world.loop.create_future()
        self.world.ops.append(Op("guardian", line, lambda: self.heard(line) if self.alive else None, future))

    def send(self, line: str) -> None:
        if not self.alive:
            raise VssError(Code.VSS_E_UNEXPECTED, "the model's guardian is dead")
        word, _, value = line.strip().partition(" ")
        if word == "arm":
            self.armed_until = int(value) / 1e9
            self._report("armed")
        elif word == "forget":
            self.roots.pop(int(value), None)
        else:
            self.finished = True

    def put_away(self) -> None:
        if not self.finished:
            for descriptor in self.roots.values():
                self.world.kernel.thaw_now(descriptor)
        self.alive = False

    def die(self) -> None:
        self.alive = False
        self.died()

    def look(self) -> None:
        """The deadline, seen every 20 ms."""
        if self.alive and self.armed_until and self.world.loop.moment >= self.armed_until - 1e-6:
            for descriptor in self.roots.values():
                self.world.kernel.thaw_now(descriptor)
            if not self.expired:
                self.expired = True
                self.heard("expired")


class ModelHost:
    """Stands where the coordinator has its ``Host``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.guards: list[ModelGuard] = []
        self.journals: dict[str, set[int]] = {}

    def open_roots(self, devices: dict[str, str]) -> list[FrozenRoot]:
        return [
            FrozenRoot(index, name, f"/{name}", device, self.world.volumes[name].descriptor, kernel=self.world.kernel)
            for index, (name, device) in enumerate(devices.items())
        ]

    async def readers_of(self, path: str) -> list[str]:
        return []

    def guard(self, roots: list[FrozenRoot]) -> ModelGuard:
        guard = ModelGuard(self.world, "", roots)
        self.guards.append(guard)
        return guard

    def write_journal(self, set_id: str, roots: list[FrozenRoot]) -> None:
        self.journals[set_id] = {root.descriptor for root in roots}

    def remove_journal(self, set_id: str) -> None:
        self.journals.pop(set_id, None)
