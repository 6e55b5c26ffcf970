"""vssadmin's commands on shadow storage. A volume's storage is a directory; ``/on=`` names what that lies on."""

from __future__ import annotations

import os

from shadowset.requester.administration import Administration
from shadowset.requester.backup.mounts import is_below, read_mounts
from shadowset.requester.cli import EXIT_FAILURE, EXIT_OK
from shadowset.requester.cli.output import say
from shadowset.requester.cli.storage import disk_size
from shadowset.requester.windows.confirm import confirmed
from shadowset.requester.windows.sizes import parse_max_size
from shadowset.requester.windows.vssadmin import layout
from shadowset.requester.windows.vssadmin.arguments import Switches
from shadowset.requester.windows.vssadmin.commands import CLIENT
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import StorageInfo


def list_storage(switches: Switches) -> int:
    """``[/for=VOLUME | /on=STORAGE]``."""
    with Administration(client=CLIENT) as administration:
        storages = administration.storage_list(switches.value("for"))
        mounts = {info.name: info.mount_points for info in administration.volume_list()}
    wanted = switches.value("on")
    chosen = [storage for storage in storages if not wanted or lies_on(storage.storage, wanted)]
    rows = [
        (storage, mount_point_of(storage.storage), disk_size(storage.storage), mounts.get(storage.volume, []))
        for storage in chosen
    ]
    say(layout.storages(rows) if rows else layout.NOTHING)
    return EXIT_OK


def add_storage(switches: Switches) -> int:
    """``/for=DEVICE /on=DIRECTORY [/maxsize=…]``: the device is protected from now on, named as its node is."""
    switches.need("for", "on")
    device, place = switches.value("for"), os.path.abspath(switches.value("on"))
    with Administration(client=CLIENT) as administration:
        for info in administration.volume_list():
            if device in (info.name, info.device, *info.mount_points) or _same_file(device, info.origin):
                raise VssError(
                    Code.VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED,
                    f"volume {info.name} has its shadow storage in {info.storage}; resize that",
                )
        limit = parse_max_size(switches.value("maxsize"), disk_size(place))
        name = os.path.basename(device).partition(".")[0]
        administration.volume_add(name, os.path.abspath(device), f"{place}/shadowset-{name}")
        if limit:
            administration.storage_configure(name, max_size=limit)
    say("Successfully added the shadow copy storage association")
    return EXIT_OK


def resize_storage(switches: Switches) -> int:
    """``/for=VOLUME /on=STORAGE [/maxsize=…]``; without /maxsize there is no limit."""
    switches.need("for", "on")
    with Administration(client=CLIENT) as administration:
        storage = _association(administration, switches)
        limit = parse_max_size(switches.value("maxsize"), disk_size(storage.storage))
        administration.storage_configure(storage.volume, max_size=limit)
    say("Successfully resized the shadow copy storage association")
    return EXIT_OK


def delete_storage(switches: Switches) -> int:
    """``/for=VOLUME [/on=STORAGE] [/quiet]``: the volume is no longer protected. Refused while it has copies."""
    switches.need("for")
    with Administration(client=CLIENT) as administration:
        storage = _association(administration, switches)
        if "quiet" not in switches.flags and not confirmed(
            f"Do you really want to stop making shadow copies of volume {storage.volume}"
        ):
            return EXIT_FAILURE
        administration.volume_remove(storage.volume)
    say("Successfully deleted the shadow copy storage association(s)")
    return EXIT_OK


def _association(administration: Administration, switches: Switches) -> StorageInfo:
    storage = administration.storage_list(switches.value("for"))[0]
    place = switches.value("on")
    if place and not lies_on(storage.storage, place):
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"the shadow storage of volume {storage.volume} is {storage.storage}, which is not on {place}; "
            "'vssadmin list shadowstorage' shows where each is",
        )
    return storage


def lies_on(storage: str, place: str) -> bool:
    """Whether ``place`` is the storage's directory, one above it, its file system's mount point or its device."""
    resolved = os.path.realpath(place)
    if is_below(os.path.realpath(storage), resolved):
        return True
    try:
        return os.stat(resolved).st_rdev == os.stat(storage).st_dev
    except OSError:
        return False


def mount_point_of(path: str) -> str:
    """The mount point of the file system that a path lies on."""
    resolved = os.path.realpath(path)
    points = [mount.path for mount in read_mounts() if is_below(resolved, mount.path)]
    return max(points, key=len, default="")


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
