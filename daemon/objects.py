"""Descriptions of the device objects, left as JSON files for the FUSE layer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import msgspec

from shadowset.daemon.catalogue import VolumeRow
from shadowset.vss.objects import DeviceObject
from shadowset.vss.paths import DEVICE_PREFIX, Paths
from shadowset.vss.requester_protocol import SnapshotProperties

NUMBER_OF_OBJECT = re.compile(r"([0-9]{1,18})\.json")
NUMBER_OF_TREE = re.compile(rf"{DEVICE_PREFIX}([0-9]{{1,18}})")


def device_object(copy: SnapshotProperties, volume: VolumeRow) -> DeviceObject:
    """What the FUSE layer needs to serve a copy."""
    return DeviceObject(
        device_number=copy.device_number,
        snapshot_id=copy.snapshot_id,
        snapshot_set_id=copy.snapshot_set_id,
        copy_id=copy.snapshot_id,
        volume=volume.name,
        storage=volume.storage,
        origin=volume.origin,
        size=copy.size,
        created_ns=copy.created_ns,
        attributes=copy.attributes,
        originating_machine=copy.originating_machine,
    )


def last_number(paths: Paths) -> int:
    """The highest device number that is taken on the running host, by an object or a tree; 0 when none is."""
    places = {paths.objects: NUMBER_OF_OBJECT, paths.trees: NUMBER_OF_TREE}
    names = ((pattern, name) for place, pattern in places.items() if os.path.isdir(place) for name in os.listdir(place))
    return max((int(found[1]) for pattern, name in names if (found := pattern.fullmatch(name))), default=0)


class DeviceObjects:
    """The directory of descriptions."""

    def __init__(self, paths: Paths) -> None:
        self._directory = paths.objects

    def write(self, device: DeviceObject) -> None:
        """Whole, and renamed into place."""
        path = self._path(device.device_number)
        with open(f"{path}.new", "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(device)))
        os.rename(f"{path}.new", path)

    def remove(self, device_number: int) -> None:
        """The copy is gone."""
        try:
            os.unlink(self._path(device_number))
        except FileNotFoundError:
            pass

    def rewrite(self, devices: Iterable[DeviceObject]) -> None:
        """Make the directory say exactly this."""
        os.makedirs(self._directory, exist_ok=True)
        wanted = {f"{device.device_number}.json": device for device in devices}
        for name in os.listdir(self._directory):
            if name not in wanted:
                os.unlink(f"{self._directory}/{name}")
        for device in wanted.values():
            self.write(device)

    def _path(self, number: int) -> str:
        return f"{self._directory}/{number}.json"
