"""A whole provider in one file: it copies directories that hold a file named ``.copy-me``.

Install it with an entry point, and the coordinator finds it at its next start:

    [project.entry-points."shadowset.providers"]
    directory = "directory_provider:DirectoryProvider"

Nothing can hold the writes of a plain directory, and a copy takes as long as its files do, so this is for small ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ProviderCapability, ProviderType
from shadowset.vss.paths import DEVICE_PREFIX
from shadowset.vss.provider import ProviderHost, VolumeFacts
from shadowset.vss.provider_protocol import Committed, CopyInfo, Held, Released
from shadowset.vss.requester_protocol import ProviderInfo, SnapshotProperties

ID = "0a9d1a3c-2f0e-4a57-9d58-3f2f3f0d8e11"
PREFIX = "dir:"


class Kept(msgspec.Struct):
    """What stands in ``<state>/<snapshot id>.json``."""

    volume: str
    copy: CopyInfo


class DirectoryProvider:
    """Implements ``shadowset.vss.provider.Provider``."""

    info = ProviderInfo(ID, "Directory copies", ProviderType.SOFTWARE, "1.0", ID, ID, int(ProviderCapability.COMPLIANT))

    def __init__(self, host: ProviderHost) -> None:
        self._host = host

    async def start(self, copies: list[SnapshotProperties]) -> None:
        for copy in copies:
            await self.surface(copy)

    async def stop(self) -> None:
        pass

    async def find(self, volume: str) -> VolumeFacts | None:
        path = os.path.realpath(volume.removeprefix(PREFIX))
        if not (volume.startswith((PREFIX, "/")) and os.path.exists(f"{path}/.copy-me")):
            return None
        return VolumeFacts(f"{PREFIX}{path}", mount_points=[path], lies_on=[path], holds=False)

    async def is_volume_supported(self, volume: str) -> bool:
        return await self.find(volume) is not None

    async def begin_prepare(self, volume: str, set_id: str, snapshot_id: str) -> None:
        if not await self.is_volume_supported(volume):
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"{volume} is gone, or its file .copy-me is")

    async def end_prepare(self, volume: str, set_id: str) -> None:
        pass

    async def pre_commit(self, volume: str, set_id: str) -> None:
        pass

    def lost(self, volume: str) -> bool:
        return False

    async def hold(self, volume: str, timeout_ms: int) -> Held:
        return Held(0.0)

    async def commit(self, volume: str, snapshot_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        number = len(self._all(volume)) + 1
        kept = Kept(volume, CopyInfo(snapshot_id, set_id, number, created_ns, persistent, pending=True, size=0))
        self._write(kept)
        await self._do("cp", "-a", "--reflink=auto", volume.removeprefix(PREFIX), self._files(snapshot_id))
        return Committed(number)

    async def release(self, volume: str) -> Released:
        return Released(0.0, 0)

    async def post_commit(self, volume: str, set_id: str) -> None:
        pass

    async def pre_final_commit(self, volume: str, set_id: str) -> None:
        pass

    async def open_layer(self, volume: str, snapshot_id: str) -> str:
        self._read(volume, snapshot_id)
        return self._files(snapshot_id)

    async def seal(self, volume: str, snapshot_id: str) -> None:
        self._read(volume, snapshot_id)

    async def post_final_commit(self, volume: str, snapshot_id: str) -> None:
        kept = self._read(volume, snapshot_id)
        kept.copy.pending = False
        self._write(kept)

    async def abort(self, volume: str, snapshot_id: str) -> None:
        await self.delete(volume, snapshot_id)

    async def delete(self, volume: str, snapshot_id: str) -> None:
        self._read(volume, snapshot_id)
        await self._host.in_thread(lambda: shutil.rmtree(self._files(snapshot_id), ignore_errors=True))
        os.unlink(self._record(snapshot_id))

    async def volumes(self) -> list[str]:
        return sorted({kept.volume for kept in self._all()})

    async def copies(self, volume: str) -> list[CopyInfo]:
        if not volume.startswith(PREFIX):
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{volume} is no directory of this provider")
        return [kept.copy for kept in self._all(volume)]

    async def keep(self, volume: str, snapshot_id: str, priority: int | None, hold_until_ns: int | None) -> None:
        self._read(volume, snapshot_id)

    def place(self, device_number: int) -> str:
        return f"{self._host.trees}/{DEVICE_PREFIX}{device_number}"

    async def surface(self, copy: SnapshotProperties) -> None:
        self._read(copy.original_volume, copy.snapshot_id)
        place = copy.device_object
        os.makedirs(place, exist_ok=True)
        if not os.path.exists(f"{place}/.copy-me"):
            await self._do("mount", "--bind", "-o", "ro,nosuid,nodev", self._files(copy.snapshot_id), place)

    async def unsurface(self, copy: SnapshotProperties) -> None:
        if os.path.exists(f"{copy.device_object}/.copy-me"):
            await self._do("umount", "--lazy", copy.device_object)
        if os.path.isdir(copy.device_object):
            os.rmdir(copy.device_object)

    # ---- files ----

    async def _do(self, *command: str) -> None:
        done = await self._host.in_thread(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
        if done.returncode:
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"{command[0]} failed: {done.stderr.strip()}")

    def _files(self, snapshot_id: str) -> str:
        return f"{self._host.state}/{snapshot_id}"

    def _record(self, snapshot_id: str) -> str:
        return f"{self._files(snapshot_id)}.json"

    def _write(self, kept: Kept) -> None:
        path = self._record(kept.copy.copy_id)
        with open(f"{path}.new", "wb") as file:
            file.write(msgspec.json.encode(kept))
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)

    def _read(self, volume: str, snapshot_id: str) -> Kept:
        for kept in self._all(volume):
            if kept.copy.copy_id == snapshot_id:
                return kept
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no copy {snapshot_id} of {volume}")

    def _all(self, volume: str = "") -> list[Kept]:
        found = []
        for name in sorted(os.listdir(self._host.state)):
            if name.endswith(".json"):
                with open(f"{self._host.state}/{name}", "rb") as file:
                    found.append(msgspec.json.decode(file.read(), type=Kept))
        return [kept for kept in found if volume in ("", kept.volume)]
