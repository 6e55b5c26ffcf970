"""What may become a volume and where its shadow storage may lie; what of ours must not lie on a volume."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.creation import Footprint
from shadowset.daemon.mounts import device_family, device_number, device_of_path, devices_below, mounts_of
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider import VolumeFacts

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
SECTOR = 512


def check_name(name: str) -> None:
    """Errors: E_INVALIDARG."""
    if not NAME.match(name):
        raise VssError(
            Code.E_INVALIDARG,
            f"{name[:80]!r} is not a volume name: 1 to 64 letters, digits, dots, underscores and hyphens, "
            f"the first a letter or digit",
        )


def check_origin(origin: str, volumes: Iterable[VolumeRow], ours: bool = False) -> None:
    """``ours``: a provider of ours has it in use. Errors: VssError saying why this cannot be an origin."""
    if not os.path.isabs(origin):
        raise VssError(Code.E_INVALIDARG, f"the origin {origin!r} must be an absolute path")
    try:
        status = os.stat(origin)
    except OSError as error:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"{origin} cannot be protected: {error.strerror}; name a block device or an image file",
        ) from None
    if not (stat.S_ISBLK(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise VssError(
            Code.VSS_E_VOLUME_NOT_SUPPORTED,
            f"{origin} is neither a block device nor an image file; name the device that holds the file system, "
            "which 'findmnt' shows",
        )
    _check_not_taken(origin, status, volumes)
    if not ours:
        _check_size(origin, _exclusive_size(origin, stat.S_ISBLK(status.st_mode)))


def _check_size(origin: str, size: int) -> None:
    if size == 0 or size % SECTOR:
        raise VssError(
            Code.VSS_E_VOLUME_NOT_SUPPORTED,
            f"the origin {origin} has {size} bytes; its size must be a multiple of {SECTOR} above zero",
        )


def _check_not_taken(origin: str, status: os.stat_result, volumes: Iterable[VolumeRow]) -> None:
    number = device_number(origin)
    below = devices_below(origin)
    for volume in volumes:
        if _same_file(volume.origin, status):
            raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"the origin {origin} is already volume {volume.name}")
        family = device_family(device_number(volume.device)) if volume.device else set()
        if number and number in family:
            raise VssError(
                Code.VSS_E_NESTED_VOLUME_LIMIT, f"the origin {origin} is the device of volume {volume.name} itself"
            )
        if below & family:
            raise VssError(
                Code.VSS_E_NESTED_VOLUME_LIMIT,
                f"the origin {origin} lies on volume {volume.name}; a volume inside a protected volume is not possible",
            )


def _same_file(path: str, status: os.stat_result) -> bool:
    try:
        other = os.stat(path)
    except OSError:
        return False
    if stat.S_ISBLK(other.st_mode) and stat.S_ISBLK(status.st_mode):
        return other.st_rdev == status.st_rdev
    return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)


def _exclusive_size(origin: str, is_device: bool) -> int:
    """The size, and the proof that nobody has the origin in use."""
    check_unused(origin, is_device)
    try:
        descriptor = os.open(origin, os.O_RDONLY | os.O_CLOEXEC | (os.O_EXCL if is_device else 0))
    except OSError as error:
        raise VssError(
            Code.VSS_E_VOLUME_IN_USE, f"the origin {origin} cannot be opened for us alone: {error.strerror}"
        ) from None
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def check_unused(origin: str, is_device: bool) -> None:
    """Nobody else may have it mounted or under a loop device. Errors: VSS_E_VOLUME_IN_USE."""
    users = [mount.path for mount in mounts_of(origin)] if is_device else loops_on(origin)
    if users:
        how = "mounted at" if is_device else "used by"
        release = f"unmount it ('umount {users[0]}')" if is_device else "release it"
        raise VssError(
            Code.VSS_E_VOLUME_IN_USE,
            f"{origin} is {how} {users[0]}; {release} first, then mount the volume through its own device",
        )


def loops_on(path: str) -> list[str]:
    """Loop devices whose backing file this is."""
    real = os.path.realpath(path)
    found = []
    for name in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{name}/loop/backing_file", errors="surrogateescape") as file:
                backing = file.read().rstrip("\n")
        except OSError:
            continue
        if backing == real:
            found.append(f"/dev/{name}")
    return found


def check_storage(storage: str, name: str, volumes: Iterable[VolumeRow]) -> str:
    """The storage directory's real path. Errors: VssError saying why shadow storage cannot lie there."""
    if not os.path.isabs(storage):
        raise VssError(Code.E_INVALIDARG, f"the shadow storage {storage!r} must be an absolute path")
    real = os.path.realpath(storage)
    if not os.path.isdir(os.path.dirname(real)):
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND, f"the shadow storage {storage} has no parent directory; make it first"
        )
    if os.path.lexists(real) and not os.path.isdir(real):
        raise VssError(Code.E_INVALIDARG, f"the shadow storage {storage} is not a directory")
    for volume in volumes:
        other = os.path.realpath(volume.storage)
        if os.path.commonpath([real, other]) in (real, other):
            raise VssError(
                Code.VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED,
                f"the shadow storage {storage} is, holds or lies in that of volume {volume.name}; give each its own",
            )
    on = volume_below(real, volumes)
    if on:
        raise VssError(
            Code.E_INVALIDARG,
            f"the shadow storage {storage} of volume {name} lies on protected volume {on}, which would block itself; "
            f"choose a directory on an unprotected file system",
        )
    return real


def volume_below(path: str, volumes: Iterable[VolumeRow]) -> str:
    """The protected volume that a path lies on, or ""."""
    number = device_of_path(path)
    for volume in volumes:
        if volume.device and number in device_family(device_number(volume.device)):
            return volume.name
    return ""


def check_own_files(places: dict[str, str], volumes: list[VolumeRow]) -> None:
    """``places`` (what → path) and every shadow storage must lie on no protected volume. Errors: E_INVALIDARG."""
    named = dict(places)
    for volume in volumes:
        named[f"the shadow storage of volume {volume.name}"] = volume.storage
    for what, path in named.items():
        on = volume_below(path, volumes)
        if on:
            raise VssError(
                Code.E_INVALIDARG,
                f"{what} ({path}) lies on protected volume {on}; freezing that would block ourselves, "
                f"so move it to an unprotected file system",
            )


def footprint(chosen: list[VolumeFacts], writers: Iterable[str]) -> Footprint:
    """What a set of these volumes and writers needs for itself."""
    names = frozenset(each.name for each in chosen)
    devices = [_families(each.devices) for each in chosen]
    below = [_below(each) for each in chosen]
    return Footprint(names, frozenset(writers), frozenset().union(*devices), frozenset().union(*below))


def _below(volume: VolumeFacts) -> set[str]:
    return set().union(*map(devices_below, volume.lies_on))


def check_nesting(chosen: list[VolumeFacts]) -> None:
    """No volume of a set may lie in a file of another one, loop device or not. Errors: VSS_E_NESTED_VOLUME_LIMIT."""
    families = {each.name: _families(each.devices) for each in chosen}
    for volume in chosen:
        below = _below(volume)
        for name, family in families.items():
            if name != volume.name and below & family:
                raise VssError(
                    Code.VSS_E_NESTED_VOLUME_LIMIT,
                    f"volume {volume.name} lies on volume {name}; make a set of one of them only",
                )


def _families(devices: list[str]) -> set[str]:
    return set().union(*(device_family(device_number(device)) for device in devices))


def check_holds(chosen: list[VolumeFacts]) -> None:
    """One volume whose writes cannot be held is enough. Errors: VSS_E_VOLUME_NOT_SUPPORTED."""
    loose = [each.name for each in chosen if not each.holds]
    if len(loose) > 1:
        raise VssError(
            Code.VSS_E_VOLUME_NOT_SUPPORTED,
            f"nobody can hold the writes of volumes {loose[0]} and {loose[1]}, so they cannot be cut at one instant; "
            f"put them into sets of their own",
        )
