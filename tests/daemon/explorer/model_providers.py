"""A model of the providers and of what the coordinator keeps: volumes, their gates and copies, the catalogue."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model_host import Op

from shadowset.daemon.catalogue import VolumeRow
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import SnapshotState
from shadowset.vss.mountinfo import Mount
from shadowset.vss.provider_protocol import Committed, CopyInfo, Held, Released, VolumeDescription

if TYPE_CHECKING:
    from model_world import World


class ModelLink:
    """The control connection of one volume's provider; its calls are served in their order."""

    def __init__(self, volume: ModelVolume) -> None:
        self.volume = volume
        self.world = volume.world
        self.lost = asyncio.Event()

    def _call(self, kind: str, effect: Callable[[], Any], faults: tuple[str, ...] = ("no",)) -> Any:
        if self.lost.is_set():
            return self._gone()
        op = _ProviderOp(self.volume.name, kind, effect, self.world.loop.create_future(), faults)
        op.volume = self.volume
        self.world.ops.append(op)
        return op.future

    async def _gone(self) -> Any:
        raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"the model's provider of {self.volume.name} is gone")

    async def describe(self) -> VolumeDescription:
        if self.lost.is_set():
            await self._gone()
        return self.volume.description

    async def hold(self, timeout_ms: int) -> Held:
        return await self._call("hold", lambda: self.volume.hold(timeout_ms))  # type: ignore[no-any-return]

    async def commit(self, copy_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        return await self._call("commit", lambda: self.volume.commit(copy_id, set_id))  # type: ignore[no-any-return]

    async def release(self) -> Released:
        return await self._call("release", self.volume.release)  # type: ignore[no-any-return]

    async def finish(self, copy_id: str, attributes: int = 0) -> None:
        await self._call("finish", lambda: self.volume.finish(copy_id))

    async def delete(self, copy_id: str) -> None:
        await self._call("delete", lambda: self.volume.delete(copy_id))


class _ProviderOp(Op):
    volume: ModelVolume

    def fail(self, fault: str) -> Any:
        if self.kind == "release":  # it was asked; its gate opens at the deadline
            self.volume.unreleased = False
        raise VssError(Code.VSS_E_PROVIDER_VETO, "the model's provider says no")


@dataclass(eq=False)
class ModelVolume:
    """A volume, its provider's gate and its copies; also what the coordinator knows as its runtime."""

    world: World
    name: str
    descriptor: int
    gate_until: float = 0.0
    unreleased: bool = False
    copies: dict[str, tuple[str, bool]] = field(default_factory=dict)
    link: Any = None
    state: str = "online"

    def __post_init__(self) -> None:
        self.row = VolumeRow(self.name, f"/origin/{self.name}", f"/storage/{self.name}", 16384)
        self.device = f"/dev/{self.name}"
        self.link = ModelLink(self)

    @property
    def owed(self) -> bool:
        """Its writes are held, and nobody has asked to let them go."""
        asked = any(op.actor == self.name and op.kind == "release" for op in self.world.ops)
        return self.unreleased and not asked

    @property
    def closed(self) -> bool:
        return self.world.loop.moment < self.gate_until

    @property
    def description(self) -> VolumeDescription:
        infos = [CopyInfo(copy, set_id, 1, 1, False, pending, 4096) for copy, (set_id, pending) in self.copies.items()]
        row = self.row
        return VolumeDescription(self.name, row.origin, row.storage, 4096, 16384, 1, 0, "", 1, self.closed, infos)

    async def describe(self) -> VolumeDescription:
        return self.description

    def online(self) -> Any:
        if self.link.lost.is_set():
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"volume {self.name} is offline")
        return self.link

    def hold(self, timeout_ms: int) -> Held:
        self.world.watch.require(0 < timeout_ms <= self.world.house.limits.hold_ms, "held for too long")
        self.world.watch.require(not self.closed, "one volume is held by two sets")
        self.gate_until = self.world.loop.moment + timeout_ms / 1000
        self.unreleased = True
        return Held(0.1)

    def commit(self, copy_id: str, set_id: str) -> Committed:
        if not self.closed:
            raise VssError(Code.VSS_E_HOLD_WRITES_TIMEOUT, "the hold has ended")
        self.copies[copy_id] = (set_id, True)
        self.world.watch.committed(self.name, set_id)
        return Committed(1)

    def release(self) -> Released:
        self.unreleased = False
        if not self.closed:
            raise VssError(Code.VSS_E_HOLD_WRITES_TIMEOUT, "the hold has ended")
        self.open_gate()
        return Released(1.0, 0)

    def open_gate(self) -> None:
        if self.gate_until:
            self.gate_until = 0.0
            self.world.watch.let_go(self.name)

    def finish(self, copy_id: str) -> None:
        self._known(copy_id)
        self.copies[copy_id] = (self.copies[copy_id][0], False)

    def delete(self, copy_id: str) -> None:
        self._known(copy_id)
        del self.copies[copy_id]

    def _known(self, copy_id: str) -> None:
        if copy_id not in self.copies:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"no copy {copy_id}")

    def lose(self, after: bool) -> None:
        """The connection ends, before or after what the provider does just now."""
        link = self.link
        mine = [op for op in self.world.ops if op.actor == self.name]
        if after and mine:
            try:
                mine[0].effect()
            except VssError:
                pass
        link.lost.set()
        self.unreleased = False
        self.open_gate()
        for op in mine:
            self.world.ops.remove(op)
            op.effect = _raise_gone
            op.end()

    def come_back(self) -> None:
        self.link = ModelLink(self)


def _raise_gone() -> None:
    raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, "the model's provider went away")


class ModelVolumes:
    """Stands where the coordinator has its ``Volumes``."""

    def __init__(self, volumes: dict[str, ModelVolume]) -> None:
        self._volumes = volumes

    def __len__(self) -> int:
        return len(self._volumes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._volumes)

    def get(self, name: str) -> ModelVolume:
        return self._volumes[name]

    resolve = get

    def link_of(self, name: str) -> Any:
        return self._volumes[name].online()

    def rows(self) -> list[VolumeRow]:
        return [each.row for each in self._volumes.values()]

    def mounts(self, name: str) -> list[Mount]:
        return [Mount(0, "", "/", f"/{name}", "", "")]

    def check_set(self, chosen: list[Any]) -> None:
        pass


class ModelCatalogue:
    """The records, in memory. Writing while something is frozen, or must not be written, is a violation."""

    def __init__(self, world: World, broken: bool) -> None:
        self.world = world
        self.broken = broken
        self.sets: dict[str, Any] = {}
        self.copies: dict[str, Any] = {}
        self._deleting: dict[str, str] = {}
        self._number = 0

    def setting(self, name: str) -> str:
        return ""

    def _write(self) -> None:
        self.world.watch.require(not self.world.kernel.frozen, "the catalogue is written while something is frozen")
        self.world.watch.require(not self.world.house.quiet.active, "the catalogue is written while nothing may be")

    def next_device_numbers(self, count: int) -> list[int]:
        self._write()
        self._number += count
        return list(range(self._number - count + 1, self._number + 1))

    def put_set(self, record: Any) -> None:
        self._write()
        if self.broken:
            raise sqlite3.OperationalError("database or disk is full")
        self.sets[record.set_id] = record
        if record.status is SnapshotState.CREATED:
            self.world.watch.recorded(record)
            self.copies.update({copy.snapshot_id: copy for copy in record.snapshots})

    def snapshots(self, snapshot_id: str = "", set_id: str = "", volume: str = "") -> list[Any]:
        return [
            copy
            for copy in self.copies.values()
            if copy.snapshot_id not in self._deleting
            and snapshot_id in ("", copy.snapshot_id)
            and set_id in ("", copy.snapshot_set_id)
            and volume in ("", copy.original_volume)
        ]

    def deleting(self, volume: str) -> list[str]:
        return [each for each, where in self._deleting.items() if where == volume]

    def buried(self) -> set[str]:
        return set()  # no volume is removed in the model

    def aside(self, volume: str = "") -> list[Any]:
        return []  # deletion is not delayed in the model

    def is_aside(self, snapshot_id: str) -> bool:
        return False

    def mark_deleting(self, snapshot_ids: list[str]) -> None:
        self._write()
        self._deleting.update({each: self.copies[each].original_volume for each in snapshot_ids})

    def forget_snapshot(self, snapshot_id: str) -> None:
        self._write()
        self._deleting.pop(snapshot_id, None)
        self.copies.pop(snapshot_id, None)


class ModelObjects:
    """Device objects are described; nobody reads them here."""

    def write(self, device: Any) -> None:
        pass

    def remove(self, number: int) -> None:
        pass
