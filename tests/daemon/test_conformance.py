"""The conformance checks: the providers that ship pass them, and each kind of wrong provider is caught."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.btrfs_provider.provider import BtrfsProvider
from shadowset.daemon.catalogue import Catalogue
from shadowset.daemon.commands import Commands
from shadowset.daemon.conformance import check_provider
from shadowset.daemon.limits import Limits
from shadowset.daemon.nbd import NbdProvider
from shadowset.daemon.providers import Lodging
from shadowset.daemon.quiet import HoldingHandler, Quiet
from shadowset.daemon.volumes import Volumes
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths
from shadowset.vss.provider import Provider, VolumeFacts
from shadowset.vss.provider_protocol import Committed, CopyInfo

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "examples"))
from directory_provider import DirectoryProvider

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the providers mount their copies"),
]


@pytest.fixture
def paths() -> Iterator[Paths]:
    with tempfile.TemporaryDirectory(prefix="ss-kit-", dir="/var/tmp") as base:
        made = Paths(f"{base}/run", f"{base}/state")
        for directory in (made.objects, made.devices, made.state):
            os.makedirs(directory)
        try:
            yield made
        finally:
            for line in Path("/proc/self/mounts").read_text().splitlines()[::-1]:
                place = line.split(" ")[1]
                if place.startswith(f"{base}/"):
                    subprocess.run(["umount", "--lazy", place], check=False)


class DirectoryBench:
    """A directory on any file system; copies are directories."""

    def __init__(self, paths: Paths, kind: Callable[[Lodging], Provider], live: Path) -> None:
        self.volume = str(live)
        self._lodging = Lodging("bench", paths, lambda name, message, volume: None)
        self._kind = kind

    async def make(self) -> Provider:
        return self._kind(self._lodging)

    def change(self, mark: bytes) -> None:
        with open(f"{self.volume}/mark", "wb") as file:
            file.write(mark)
            file.flush()
            os.fsync(file.fileno())

    def read(self, place: str) -> bytes:
        return Path(place, "mark").read_bytes()

    def recover(self, place: str, mark: bytes) -> None:
        Path(place, "mark").write_bytes(mark)


def problems(bench: Any) -> dict[str, str]:
    return {problem.check: problem.sentence for problem in asyncio.run(check_provider(bench))}


@pytest.fixture
def directory(paths: Paths) -> Path:
    made = Path(paths.state).parent / "live"
    made.mkdir()
    (made / ".copy-me").touch()
    return made


def test_the_example_passes(paths: Paths, directory: Path) -> None:
    assert problems(DirectoryBench(paths, DirectoryProvider, directory)) == {}


def test_the_btrfs_provider_passes(paths: Paths) -> None:
    if "btrfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs a kernel with btrfs")
    image, live = f"{paths.state}/image", Path(paths.state).parent / "live"
    live.mkdir()
    with open(image, "wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, str(live)], check=True)
    try:
        assert problems(DirectoryBench(paths, BtrfsProvider, live)) == {}
    finally:
        subprocess.run(["umount", "--lazy", str(live)], check=True)


class NbdBench:
    """A protected image file, written to over NBD; copies are files of the FUSE layer."""

    volume = "vol"

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._volumes: Volumes | None = None

    async def make(self) -> Provider:
        if self._volumes:
            await self._volumes.leave()
        os.makedirs(f"{self._paths.state}", exist_ok=True)
        catalogue = Catalogue(self._paths.catalogue)
        quiet = Quiet(HoldingHandler(logging.NullHandler()))
        volumes = self._volumes = Volumes(
            self._paths, Limits(), Commands(), catalogue, quiet, lambda name, message, volume: None
        )
        await volumes.start()
        if not len(volumes):
            image = f"{self._paths.state}/image"
            with open(image, "wb") as file:
                file.truncate(4 << 20)
            await volumes.add(self.volume, image, f"{self._paths.state}/store", 16384)
        return NbdProvider(self._paths, volumes, Commands())

    async def remove(self) -> None:
        assert self._volumes
        await self._volumes.remove(self.volume, force=True)

    def change(self, mark: bytes) -> None:
        uri = f"nbd+unix:///?socket={self._paths.nbd_socket(self.volume)}"
        script = f"h.pwrite({mark!r}, 0); h.flush()"
        subprocess.run(["/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", script], check=True, timeout=60)

    def read(self, place: str) -> bytes:
        with open(place, "rb") as file:
            return file.read(8)

    def recover(self, place: str, mark: bytes) -> None:
        with open(place, "r+b") as file:
            file.write(mark)
            file.flush()
            os.fsync(file.fileno())


def test_the_nbd_provider_passes(paths: Paths) -> None:
    fuse = [sys.executable, "-m", "shadowset.fuse_mount.main", "--objects", paths.objects, "--mount", paths.devices]

    async def check() -> dict[str, str]:
        bench = NbdBench(paths)
        try:
            return {problem.check: problem.sentence for problem in await check_provider(bench)}
        finally:
            await bench.remove()

    server = subprocess.Popen(fuse)
    try:
        assert asyncio.run(check()) == {}
    finally:
        server.terminate()
        server.wait(30)


# ---- wrong ones ----


class ShowsTheLiveVolume(DirectoryProvider):
    def _files(self, snapshot_id: str) -> str:
        made = super()._files(snapshot_id)
        live = Path(self._host.state).parents[2] / "live"
        return str(live) if os.path.isdir(made) else made


class NeverPending(DirectoryProvider):
    async def commit(self, volume: str, snapshot_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        made = await super().commit(volume, snapshot_id, set_id, created_ns, persistent)
        await self.post_final_commit(volume, snapshot_id)
        return made


class LeavesAborted(DirectoryProvider):
    async def abort(self, volume: str, snapshot_id: str) -> None:
        return None


class SaysThatItHolds(DirectoryProvider):
    async def find(self, volume: str) -> VolumeFacts | None:
        facts = await super().find(volume)
        return msgspec.structs.replace(facts, holds=True) if facts else None


class ClaimsEverything(DirectoryProvider):
    async def find(self, volume: str) -> VolumeFacts | None:
        return await super().find(volume) or VolumeFacts(volume)


class RaisesAnything(DirectoryProvider):
    async def delete(self, volume: str, snapshot_id: str) -> None:
        try:
            await super().delete(volume, snapshot_id)
        except VssError:
            raise KeyError(snapshot_id) from None


class WrongCode(DirectoryProvider):
    async def delete(self, volume: str, snapshot_id: str) -> None:
        try:
            await super().delete(volume, snapshot_id)
        except VssError:
            raise VssError(Code.VSS_E_WRITERERROR_TIMEOUT, "the writer took too long") from None


class Writable(DirectoryProvider):
    async def _do(self, *command: str) -> None:
        await super()._do(*(word.replace("ro,nosuid", "rw,nosuid") for word in command))


class ForgetsAtRestart(DirectoryProvider):
    async def start(self, copies: Any) -> None:
        for volume in await self.volumes():
            for info in await super().copies(volume):
                if info.pending:
                    await self.delete(volume, info.copy_id)
        await super().start(copies)


class DeletesTooMuch(DirectoryProvider):
    async def delete(self, volume: str, snapshot_id: str) -> None:
        self._read(volume, snapshot_id)
        for info in await self.copies(volume):
            await super().delete(volume, info.copy_id)

    async def copies(self, volume: str) -> list[CopyInfo]:
        return await super().copies(volume)


class RecoversTheLiveVolume(DirectoryProvider):
    async def open_layer(self, volume: str, snapshot_id: str) -> str:
        return volume.removeprefix("dir:")


class Unnamed(DirectoryProvider):
    info = msgspec.structs.replace(DirectoryProvider.info, version_id="one", capabilities=0)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (ShowsTheLiveVolume, "check_instant"),
        (NeverPending, "check_pending"),
        (LeavesAborted, "check_abort"),
        (SaysThatItHolds, "check_hold"),
        (SaysThatItHolds, "check_hold_ends"),
        (ClaimsEverything, "check_find"),
        (RaisesAnything, "check_neighbours"),
        (WrongCode, "check_neighbours"),
        (Writable, "check_instant"),
        (ForgetsAtRestart, "check_pending"),
        (DeletesTooMuch, "check_neighbours"),
        (RecoversTheLiveVolume, "check_layer"),
        (Unnamed, "check_properties"),
    ],
)
def test_a_wrong_provider_is_caught(paths: Paths, directory: Path, kind: Any, check: str) -> None:
    found = problems(DirectoryBench(paths, kind, directory))
    assert check in found and len(found[check]) > 20
