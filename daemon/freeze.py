"""Freezing and thawing file systems: which, in what order, and how not to lose track of one.

Each file system of a set has a ``FrozenRoot``: an opened mount root and the truth about it. ``foreign`` is one that
somebody else had frozen before us: it fails the set and is never thawed by us. A freeze that is under way in the kernel
cannot be called back, so thawing waits for its thread first.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shadowset.daemon.mounts import mounts_of, read_mounts
from shadowset.daemon.process import in_thread
from shadowset.vss.codes import Code, VssError
from shadowset.vss.mountinfo import Mount

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class Kernel:
    """The calls that block, and the clock in their threads. A model takes its place where all states are explored."""

    def clock(self) -> float:
        """Seconds, as ``clock.now`` has them in the loop."""
        return time.monotonic()

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """``work`` in a thread of its own."""
        return in_thread(work)

    def sync(self, descriptor: int) -> None:
        """Errors: OSError."""
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def freeze(self, descriptor: int) -> None:
        """Errors: OSError; EBUSY when it is frozen already."""
        fcntl.ioctl(descriptor, FIFREEZE, 0)

    def thaw(self, descriptor: int) -> str:
        """What went wrong, or ""; that it was not frozen is fine."""
        return thaw_descriptor(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a mount root."""
        os.close(descriptor)


KERNEL = Kernel()


@dataclass
class FrozenRoot:
    """One file system of the set."""

    index: int
    volume: str
    path: str
    device: str
    descriptor: int
    frozen: bool = False
    foreign: bool = False
    given_up: bool = False
    frozen_at: float = 0.0
    thawed_at: float = 0.0
    freezing: asyncio.Future[None] | None = field(default=None, repr=False)
    kernel: Kernel = field(default=KERNEL, repr=False)

    def close(self) -> None:
        """Close the mount root."""
        if self.descriptor >= 0:
            self.kernel.close(self.descriptor)
            self.descriptor = -1


def freeze_layers(paths: list[str]) -> list[list[str]]:
    """Mount points in the order of freezing: each layer lies inside those of the later ones."""
    layers: dict[int, list[str]] = {}
    for path in paths:
        depth = sum(1 for other in paths if other != path and path.startswith(other.rstrip("/") + "/"))
        layers.setdefault(depth, []).append(path)
    return [sorted(layers[depth]) for depth in sorted(layers, reverse=True)]


def open_roots(devices: dict[str, str]) -> list[FrozenRoot]:
    """Open one mount root of each file system on the volumes (name → device), innermost first.

    Errors: VSS_E_VOLUME_NOT_SUPPORTED when a file system is mounted but hidden below another mount everywhere.
    """
    table = read_mounts()
    chosen: dict[str, tuple[str, Mount, int]] = {}
    try:
        for volume, device in devices.items():
            by_device: dict[str, list[Mount]] = {}
            for mount in mounts_of(device, table):
                by_device.setdefault(_identity(mount), []).append(mount)
            for mounts in by_device.values():
                mount, descriptor = _open_one(volume, mounts)
                chosen[mount.path] = (volume, mount, descriptor)
    except BaseException:
        for _, _, descriptor in chosen.values():
            os.close(descriptor)
        raise
    order = [path for layer in freeze_layers(list(chosen)) for path in layer]
    return [
        FrozenRoot(index, chosen[path][0], path, chosen[path][1].device, chosen[path][2])
        for index, path in enumerate(order)
    ]


def _identity(mount: Mount) -> str:
    return mount.source if mount.fs_type == "btrfs" else mount.device


def _open_one(volume: str, mounts: list[Mount]) -> tuple[Mount, int]:
    for mount in sorted(mounts, key=lambda each: (each.root != "/", len(each.path))):
        try:
            descriptor = os.open(mount.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        number = os.fstat(descriptor).st_dev
        if mount.fs_type == "btrfs" or f"{os.major(number)}:{os.minor(number)}" == mount.device:
            return mount, descriptor
        os.close(descriptor)
    raise VssError(
        Code.VSS_E_VOLUME_NOT_SUPPORTED,
        f"the file system of volume {volume} at {mounts[0].path} is hidden below another mount and cannot be frozen; "
        f"unmount what covers it",
    )


async def sync_roots(roots: list[FrozenRoot]) -> None:
    """Write out all dirty data of the file systems, in parallel, while applications still run."""
    await asyncio.gather(*(root.kernel.run(lambda root=root: _syncfs(root)) for root in roots))  # type: ignore[misc]


def _syncfs(root: FrozenRoot) -> None:
    try:
        root.kernel.sync(root.descriptor)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        step = "its shadow storage may be full, which 'shadowset doctor' tells" if full else "look at its disk"
        raise VssError(
            Code.VSS_E_FLUSH_WRITES_TIMEOUT,
            f"the file system at {root.path} (volume {root.volume}) cannot be written out: {error.strerror}; {step}",
        ) from None


async def freeze_roots(roots: list[FrozenRoot], on_foreign: Callable[[FrozenRoot], None]) -> None:
    """Freeze layer by layer, in parallel within a layer. Errors: VssError naming the file system."""
    by_path = {root.path: root for root in roots}
    for layer in freeze_layers(list(by_path)):
        for path in layer:
            root = by_path[path]
            root.freezing = root.kernel.run(lambda root=root: _freeze(root, on_foreign))  # type: ignore[misc]
        await asyncio.gather(*(asyncio.shield(_future(by_path[path])) for path in layer))


def _future(root: FrozenRoot) -> asyncio.Future[None]:
    assert root.freezing is not None
    return root.freezing


def _freeze(root: FrozenRoot, on_foreign: Callable[[FrozenRoot], None]) -> None:
    _syncfs(root)
    if root.given_up:
        return
    root.frozen_at = root.kernel.clock()
    root.frozen = True  # before the call: from here on it has to be thawed, whatever becomes of us
    try:
        root.kernel.freeze(root.descriptor)
    except OSError as error:
        root.frozen = False
        root.foreign = error.errno == errno.EBUSY
        if root.foreign:
            on_foreign(root)
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
            return  # written out, and held at the block level by the provider, like a crash
        code = Code.VSS_E_VOLUME_IN_USE if root.foreign else Code.VSS_E_FLUSH_WRITES_TIMEOUT
        raise VssError(code, _freeze_sentence(root, error)) from None


def _freeze_sentence(root: FrozenRoot, error: OSError) -> str:
    if root.foreign:
        return (
            f"the file system at {root.path} (volume {root.volume}) was already frozen by somebody else; "
            f"thaw it with 'fsfreeze --unfreeze {root.path}' if nobody needs that, and try again"
        )
    return f"the file system at {root.path} (volume {root.volume}) cannot be frozen: {error.strerror}"


async def thaw_roots(roots: list[FrozenRoot], on_thawed: Callable[[FrozenRoot], None]) -> list[str]:
    """Thaw what we froze, starting with the last frozen; a sentence for each that cannot be thawed.

    Each in a task of its own: one that has to wait for its device must not keep the others frozen.
    """
    order = list(reversed(roots))
    outcomes = await asyncio.gather(*(_thaw_one(root, on_thawed) for root in order), return_exceptions=True)
    return [
        outcome if isinstance(outcome, str) else f"the file system at {root.path} cannot be thawed: {outcome!r}"
        for root, outcome in zip(order, outcomes, strict=True)
        if outcome
    ]


async def _thaw_one(root: FrozenRoot, on_thawed: Callable[[FrozenRoot], None]) -> str:
    root.given_up = True
    if root.freezing is not None:
        await asyncio.wait([root.freezing])
        root.freezing.exception()
    trouble = await _thaw_aside(root) if root.frozen else ""
    on_thawed(root)
    return trouble


async def _thaw_aside(root: FrozenRoot) -> str:
    try:
        thawing = root.kernel.run(lambda: _thaw(root))
    except RuntimeError:  # no thread is to be had: standing still for a moment is better than staying frozen
        return _thaw(root)
    return await thawing


def _thaw(root: FrozenRoot) -> str:
    trouble = root.kernel.thaw(root.descriptor)
    root.thawed_at = root.kernel.clock()
    root.frozen = False
    return f"the file system at {root.path} (volume {root.volume}) cannot be thawed: {trouble}" if trouble else ""


def thaw_descriptor(descriptor: int) -> str:
    """FITHAW; EINVAL means that it is not frozen, which is what is wanted. Returns what went wrong, or ""."""
    try:
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            return error.strerror or str(error)
    return ""
