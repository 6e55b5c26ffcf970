"""Making an ordinary volume of a shadow copy: an image file, a block device, or a btrfs subvolume of its own."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable

from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import SnapshotProperties, VolumeInfo

BLOCK = 1 << 20
OnBytes = Callable[[int], None]

_NEW_UUID: dict[str, tuple[tuple[str, ...], ...]] = {
    "ext2": (("e2fsck", "-f", "-y"), ("tune2fs", "-U", "random")),
    "ext3": (("e2fsck", "-f", "-y"), ("tune2fs", "-U", "random")),
    "ext4": (("e2fsck", "-f", "-y"), ("tune2fs", "-U", "random")),
    "xfs": (("xfs_admin", "-U", "generate"),),
    "btrfs": (("btrfstune", "-f", "-u"),),
}
"""What gives each file system another UUID; the place is appended."""


def break_copy(
    copy: SnapshotProperties,
    target: str,
    volumes: Iterable[VolumeInfo],
    writable: bool,
    keep_uuid: bool,
    on_bytes: OnBytes,
) -> str:
    """Make the volume at ``target``, durably; the UUID of its file system, "" for none. The copy stays as it is.

    Errors: VssError; E_INVALIDARG and VSS_E_VOLUME_IN_USE before anything is changed, and a new image file is removed
    when its making failed.
    """
    if os.path.isdir(copy.device_object):
        return _break_tree(copy, target, writable, keep_uuid)
    is_device = check_target(copy, target, volumes)
    flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | (0 if is_device else os.O_CREAT)
    try:
        descriptor = os.open(target, flags, 0o600)
    except OSError as error:
        raise VssError(Code.VSS_E_VOLUME_IN_USE, f"{target} cannot be taken for us alone: {error.strerror}") from None
    try:
        try:
            _fill(copy, descriptor, is_device, on_bytes)
        finally:
            os.close(descriptor)
        if not keep_uuid:
            give_new_uuid(target)
        _protect(target, is_device, writable)
    except BaseException:
        if not is_device:
            os.unlink(target)
        raise
    return probe(target, "UUID")


def check_target(copy: SnapshotProperties, target: str, volumes: Iterable[VolumeInfo]) -> bool:
    """Whether it is a block device; else it is a file to be made.

    Errors: VssError saying why it cannot be used; VSS_E_UNSELECTED_VOLUME for a disk with other volumes on it.
    """
    try:
        status = os.stat(target)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
            raise VssError(Code.E_INVALIDARG, f"{target} has no parent directory; make it first") from None
        return False
    if not stat.S_ISBLK(status.st_mode):
        raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"{target} exists; name a new image file or a block device")
    for volume in volumes:
        for path in (volume.origin, volume.device):
            if path and os.path.exists(path) and os.path.samefile(path, target):
                sentence = f"{target} is of protected volume {volume.name}; use 'shadowset revert' to go back there"
                raise VssError(Code.VSS_E_VOLUME_IN_USE, sentence)
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    if size < copy.size:
        raise VssError(
            Code.E_INVALIDARG, f"{target} has {size} bytes and the shadow copy {copy.size}; name a larger one"
        )
    table = probe(target, "PTTYPE")
    if table and table != probe(copy.device_object, "PTTYPE"):
        sentence = f"{target} is a disk with partitions, all of which would be lost; name one of them, or wipe the disk"
        raise VssError(Code.VSS_E_UNSELECTED_VOLUME, sentence)
    return True


def _fill(copy: SnapshotProperties, target: int, is_device: bool, on_bytes: OnBytes) -> None:
    try:
        with open(copy.device_object, "rb", buffering=0) as source:
            if not is_device:
                os.ftruncate(target, copy.size)
            offset = 0
            while offset < copy.size:
                data = os.pread(source.fileno(), min(BLOCK, copy.size - offset), offset)
                if not data:
                    raise OSError(5, f"the copy ends at byte {offset}")
                if is_device or data.count(0) != len(data):
                    _write(target, data, offset)
                offset += len(data)
                on_bytes(len(data))
        os.fsync(target)
    except OSError as error:
        code = Code.VSS_E_UNEXPECTED if error.errno != 28 else Code.VSS_E_INSUFFICIENT_STORAGE
        raise VssError(code, f"shadow copy {copy.snapshot_id} could not be written out: {error.strerror}") from None


def _write(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written


def give_new_uuid(place: str) -> None:
    """So that the file system and the one it is a copy of can be mounted together.

    Errors: VSS_E_BREAK_REVERT_ID_FAILED. Nothing to do where there is no file system.
    """
    kind = probe(place, "TYPE")
    if not kind:
        return
    if kind not in _NEW_UUID:
        sentence = f"nothing is known that gives a {kind} file system another UUID; keep it with --keep-uuid"
        raise VssError(Code.VSS_E_BREAK_REVERT_ID_FAILED, sentence)
    try:
        if kind == "xfs":
            _replay(place)
        for command in _NEW_UUID[kind]:
            _run(*command, place, allowed=(0, 1) if command[0] == "e2fsck" else (0,))
    except VssError as error:
        raise VssError(
            Code.VSS_E_BREAK_REVERT_ID_FAILED,
            f"the {kind} file system got no other UUID ({error.message}); break with --keep-uuid",
        ) from None


def _replay(place: str) -> None:
    """xfs_admin wants an empty log."""
    with tempfile.TemporaryDirectory(prefix="shadowset-break-") as directory:
        loop = () if stat.S_ISBLK(os.stat(place).st_mode) else ("loop",)
        _run("mount", "-t", "xfs", "-o", ",".join(("nouuid", "nosuid", "nodev", *loop)), place, directory)
        _run("umount", directory)


def _protect(target: str, is_device: bool, writable: bool) -> None:
    if is_device:
        _run("blockdev", "--setrw" if writable else "--setro", target)
    else:
        os.chmod(target, 0o600 if writable else 0o400)


def probe(place: str, tag: str) -> str:
    """What blkid finds on a device or image file, for instance its TYPE; "" for nothing. Errors: VSS_E_UNEXPECTED."""
    return _run("blkid", "-p", "-o", "value", "-s", tag, place, allowed=(0, 2))


def _run(*command: str, allowed: tuple[int, ...] = (0,)) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise VssError(Code.VSS_E_UNEXPECTED, f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode not in allowed:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise VssError(Code.VSS_E_UNEXPECTED, f"{command[0]}: {lines[-1] if lines else 'failed'}")
    return done.stdout.strip()


def _break_tree(copy: SnapshotProperties, target: str, writable: bool, keep_uuid: bool) -> str:
    if not copy.original_volume.startswith("btrfs:"):
        sentence = f"shadow copy {copy.snapshot_id} is a directory of its provider; copy its files instead"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, sentence)
    if keep_uuid:
        raise VssError(Code.E_INVALIDARG, "a btrfs subvolume always has a UUID of its own; leave --keep-uuid out")
    if os.path.lexists(target):
        raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"{target} exists; name a new subvolume")
    _run("btrfs", "subvolume", "snapshot", *(() if writable else ("-r",)), copy.device_object, target)
    _run("btrfs", "filesystem", "sync", target)
    return ""
