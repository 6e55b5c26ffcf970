"""Taking in copies that other hosts have exported."""

from __future__ import annotations

import msgspec

from shadowset.daemon.house import House
from shadowset.daemon.process import despite_cancel
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import SnapshotState
from shadowset.vss.provider import Importer
from shadowset.vss.requester_protocol import ImportedCopy


async def import_copy(house: House, path: str) -> ImportedCopy:
    """Import the copy in a file. Errors: VSS_E_OBJECT_ALREADY_EXISTS, VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG; VssError
    of the provider.
    """
    importer = next((each for each in house.providers if isinstance(each, Importer)), None)
    if importer is None:
        raise VssError(
            Code.VSS_E_PROVIDER_NOT_REGISTERED,
            "no registered provider imports copies; register one with 'shadowset providers --register imported'",
        )
    return await despite_cancel(_import(house, importer, path))


async def _import(house: House, importer: Importer, path: str) -> ImportedCopy:
    imported = await importer.take_in(path)
    copy = imported.copy
    if house.catalogue.snapshots(snapshot_id=copy.snapshot_id):
        await importer.abort(copy.original_volume, copy.snapshot_id)
        raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"shadow copy {copy.snapshot_id} is on this host already")
    await house.quiet.writable()
    (number,) = house.catalogue.next_device_numbers(1)
    copy = msgspec.structs.replace(copy, device_number=number, device_object=importer.place(number))
    record = msgspec.structs.replace(imported.made, status=SnapshotState.CREATED, snapshots=[copy])
    house.catalogue.add_imported(record, copy)
    await importer.post_final_commit(copy.original_volume, copy.snapshot_id)
    await importer.surface(copy)
    sentence = f"shadow copy {copy.snapshot_id} of {copy.original_volume} was imported from {path}"
    house.event("snapshot-imported", sentence, copy.original_volume, copy.snapshot_set_id)
    return ImportedCopy(copy, imported.document)
