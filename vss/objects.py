"""The description of one device object: what the coordinator leaves for the FUSE layer to serve."""

from __future__ import annotations

import msgspec


class DeviceObject(msgspec.Struct, frozen=True):
    """A shadow copy as a read-only file of ``size`` bytes.

    ``storage`` and ``origin`` are what the read side of the shadow storage needs; ``copy_id`` finds the copy in it.
    Stored as JSON in ``<runtime>/objects/<device_number>.json``, written whole and renamed into place.
    """

    device_number: int
    snapshot_id: str
    snapshot_set_id: str
    copy_id: str
    volume: str
    storage: str
    origin: str
    size: int
    created_ns: int
    attributes: int
    originating_machine: str
