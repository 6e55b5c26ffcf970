"""diskshadow's commands on what there is: LIST, DELETE, EXPOSE, UNEXPOSE, REVERT, and what cannot be done here."""

from __future__ import annotations

import os

from shadowset.requester.administration import Administration
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup.plan import volumes_of
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.cli import UsageError
from shadowset.requester.cli.output import printable
from shadowset.requester.windows.diskshadow.session import CLIENT, Session
from shadowset.requester.windows.shadow_text import DISKSHADOW, copy_text
from shadowset.requester.windows.words import braced
from shadowset.requester.windows.writer_text import metadata_text, status_text
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import SnapshotProperties


def list_shadows(session: Session, given: list[str]) -> None:
    """``LIST SHADOWS ALL | SET ID | ID ID``."""
    what, value = _choice("LIST SHADOWS", given, {"all": 0, "set": 1, "id": 1})
    with Administration(client=CLIENT) as administration:
        copies = administration.query(
            guid(value) if what == "id" else "",
            guid(value) if what == "set" else "",
        )
    for copy in sorted(copies, key=lambda one: (one.created_ns, one.device_number)):
        session.tell(copy_text(copy, DISKSHADOW, session.names_by_id))
    session.tell(f"Number of shadow copies listed: {len(copies)}")


def list_writers(session: Session, given: list[str]) -> None:
    """``LIST WRITERS [METADATA | DETAILED | STATUS]``."""
    what, _ = _choice("LIST WRITERS", given or ["metadata"], {"metadata": 0, "detailed": 0, "status": 0})
    with Administration(client=CLIENT) as administration:
        statuses = administration.list_writers()
        volume_map = VolumeMap(administration.volume_list(), read_mounts())
    if what == "status":
        session.tell(status_text(statuses))
        session.tell(f"Number of writers listed: {len(statuses)}")
        return
    with BackupComponents(client=CLIENT) as calls:
        calls.initialize_for_backup()
        writers = calls.gather_writer_metadata().result()
    session.tell(
        metadata_text(writers, lambda files: volumes_of(files, volume_map, os.environ), detailed=what == "detailed")
    )
    session.tell(f"Number of writers listed: {len(writers)}")


def list_providers(session: Session, given: list[str]) -> None:
    """``LIST PROVIDERS``."""
    with Administration(client=CLIENT) as administration:
        infos = administration.list_providers()
    for info in infos:
        session.tell(
            f"* ProviderID: {braced(info.provider_id)}\n"
            f"\tType: [{info.type.value}] VSS_PROV_{info.type.name}\n"
            f"\tName: {printable(info.name)}\n"
            f"\tVersion: {printable(info.version)}\n"
            f"\tCLSID: {braced(info.class_id)}"
        )
    session.tell(f"{len(infos)} provider{'' if len(infos) == 1 else 's'} registered.")


def delete_shadows(session: Session, given: list[str]) -> None:
    """``DELETE SHADOWS ALL | VOLUME V | OLDEST V | SET ID | ID ID | EXPOSED PATH``."""
    what, value = _choice(
        "DELETE SHADOWS", given, {"all": 0, "volume": 1, "oldest": 1, "set": 1, "id": 1, "exposed": 1}
    )
    with BackupComponents(client=CLIENT) as calls:
        copies = calls.query(
            guid(value) if what == "id" else "",
            guid(value) if what == "set" else "",
            value if what in ("volume", "oldest") else "",
        )
        if what == "exposed":
            copies = [_exposed_on(copies, value)]
        copies.sort(key=lambda copy: (copy.created_ns, copy.device_number))
        if not copies and what != "all":
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy of {what} {value}; LIST SHADOWS ALL")
        deleted = sum(_delete(session, calls, copy) for copy in (copies[:1] if what == "oldest" else copies))
    session.tell(f"\nNumber of shadow copies deleted: {deleted}")


def _delete(session: Session, calls: BackupComponents, copy: SnapshotProperties) -> int:
    session.tell(f"Deleting shadow copy {braced(copy.snapshot_id)} on volume {printable(copy.original_volume)} ...")
    result = calls.delete_snapshots(copy.snapshot_id, force=True)
    if result.not_deleted:
        raise VssError(Code.VSS_E_PROVIDER_VETO, f"{copy.snapshot_id} was not deleted: {result.message}")
    return result.deleted


def expose(session: Session, given: list[str]) -> None:
    """``EXPOSE ID DIRECTORY``."""
    if len(given) != 2:
        raise UsageError("EXPOSE takes a shadow copy's id and an empty directory")
    _refuse_letters_and_shares(given[1])
    with BackupComponents(client=CLIENT) as calls:
        place = calls.expose_snapshot(guid(given[0]), os.path.abspath(given[1]))
    session.tell(f"The shadow copy was successfully exposed as {printable(place)}.")


def _refuse_letters_and_shares(place: str) -> None:
    if len(place.rstrip("\\")) == 2 and place[1] == ":":
        raise VssError(
            Code.E_INVALIDARG, f"{place} is a drive letter, which there are none of here; give an empty directory"
        )
    if place.startswith("\\\\"):
        raise VssError(
            Code.VSS_E_NOT_SUPPORTED, f"{place} is a share; expose the copy on an empty directory and share that"
        )


def unexpose(session: Session, given: list[str]) -> None:
    """``UNEXPOSE ID|DIRECTORY``."""
    if len(given) != 1:
        raise UsageError("UNEXPOSE takes a shadow copy's id, or the directory on which it is exposed")
    with BackupComponents(client=CLIENT) as calls:
        copies = calls.query()
        named = [copy.snapshot_id for copy in copies if copy.snapshot_id.lower() == guid(given[0])]
        copy_id = named[0] if named else _exposed_on(copies, given[0]).snapshot_id
        calls.unexpose_snapshot(copy_id)
    session.tell(f"Shadow copy {braced(copy_id)} is no longer exposed.")


def _exposed_on(copies: list[SnapshotProperties], place: str) -> SnapshotProperties:
    for copy in copies:
        if copy.exposed_name and copy.exposed_name == os.path.realpath(place):
            return copy
    raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"no shadow copy is exposed on {place}; LIST SHADOWS ALL shows where")


def revert(session: Session, given: list[str]) -> None:
    """``REVERT ID``: of a detached volume."""
    if len(given) != 1:
        raise UsageError("REVERT takes a shadow copy's id")
    with Administration(client=CLIENT) as administration:
        status = administration.revert_to_snapshot(guid(given[0]))
    session.tell(f"The revert of volume {status.volume} is under way; 'vssadmin query reverts' tells how far it is.")


def mask(session: Session, given: list[str]) -> None:
    """``MASK SET``: refused."""
    raise VssError(
        Code.VSS_E_NOT_SUPPORTED,
        "MASK hides the disks of imported hardware shadow copies, and no provider here has any; DELETE SHADOWS SET",
    )


def break_set(session: Session, given: list[str]) -> None:
    """``BREAK [WRITABLE] SET``: refused."""
    raise VssError(
        Code.VSS_E_NOT_SUPPORTED,
        "BREAK makes volumes of shadow copies that are disks of their own, and here they are differences to the live "
        "volume; copy the device of the shadow copy to another disk",
    )


def import_set(session: Session, given: list[str]) -> None:
    """``IMPORT``: refused."""
    raise VssError(
        Code.VSS_E_NOT_SUPPORTED,
        "IMPORT takes transportable shadow copies, and no provider here makes any; copy the device of the shadow copy",
    )


def guid(text: str) -> str:
    """An id without braces, in lower case."""
    return text.strip("{}").lower()


def _choice(command: str, given: list[str], allowed: dict[str, int]) -> tuple[str, str]:
    """The first word and its value. Errors: UsageError."""
    what = given[0].lower() if given else ""
    if what not in allowed or len(given) != 1 + allowed[what]:
        forms = [f"{word.upper()}{' …' if count else ''}" for word, count in allowed.items()]
        raise UsageError(f"{command} takes {' | '.join(forms)}")
    return what, given[1] if len(given) > 1 else ""
