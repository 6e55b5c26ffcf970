"""diskshadow's commands on what there is: LIST, DELETE, EXPOSE, UNEXPOSE, REVERT, and what cannot be done here."""

from __future__ import annotations

import os

from shadowset.requester.administration import Administration
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.cli import UsageError
from shadowset.requester.sentences import printable
from shadowset.requester.windows.breaking import break_set as make_volumes
from shadowset.requester.windows.diskshadow.session import CLIENT, Session
from shadowset.requester.windows.listing import (
    delete_copy,
    deleting_text,
    gather_writers,
    oldest_first,
    writers_text,
)
from shadowset.requester.windows.refusals import (
    refuse_break,
    refuse_disks,
    refuse_import,
    refuse_letters_and_shares,
)
from shadowset.requester.windows.shadow_text import DISKSHADOW, copy_text
from shadowset.requester.windows.words import braced, unbraced
from shadowset.requester.windows.writer_text import status_text
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import SnapshotProperties


def list_shadows(session: Session, given: list[str]) -> None:
    """``LIST SHADOWS ALL | SET ID | ID ID``."""
    what, value = _choice("LIST SHADOWS", given, {"all": 0, "set": 1, "id": 1})
    with Administration(client=CLIENT) as administration:
        copies = administration.query(
            unbraced(value) if what == "id" else "",
            unbraced(value) if what == "set" else "",
        )
    for copy in oldest_first(copies):
        session.tell(copy_text(copy, DISKSHADOW, session.names_by_id))
    session.tell(f"Number of shadow copies listed: {len(copies)}")


def list_writers(session: Session, given: list[str]) -> None:
    """``LIST WRITERS [METADATA | DETAILED | STATUS]``."""
    what, _ = _choice("LIST WRITERS", given or ["metadata"], {"metadata": 0, "detailed": 0, "status": 0})
    if what == "status":
        with Administration(client=CLIENT) as administration:
            statuses = administration.list_writers()
        session.tell(status_text(statuses))
        session.tell(f"Number of writers listed: {len(statuses)}")
        return
    writers = gather_writers(CLIENT)
    session.tell(writers_text(CLIENT, writers, detailed=what == "detailed"))
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
            unbraced(value) if what == "id" else "",
            unbraced(value) if what == "set" else "",
            value if what in ("volume", "oldest") else "",
        )
        if what == "exposed":
            copies = [_exposed_on(copies, value)]
        if not copies and what != "all":
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy of {what} {value}; LIST SHADOWS ALL")
        chosen = oldest_first(copies)[: 1 if what == "oldest" else None]
        for copy in chosen:
            session.tell(deleting_text(copy))
            delete_copy(calls, copy)
    session.tell(f"\nNumber of shadow copies deleted: {len(chosen)}")


def expose(session: Session, given: list[str]) -> None:
    """``EXPOSE ID DIRECTORY``."""
    if len(given) != 2:
        raise UsageError("EXPOSE takes a shadow copy's id and an empty directory")
    refuse_letters_and_shares(given[1])
    with BackupComponents(client=CLIENT) as calls:
        place = calls.expose_snapshot(unbraced(given[0]), os.path.abspath(given[1]))
    session.tell(f"The shadow copy was successfully exposed as {printable(place)}.")


def unexpose(session: Session, given: list[str]) -> None:
    """``UNEXPOSE ID|DIRECTORY``."""
    if len(given) != 1:
        raise UsageError("UNEXPOSE takes a shadow copy's id, or the directory on which it is exposed")
    with BackupComponents(client=CLIENT) as calls:
        copies = calls.query()
        named = [copy.snapshot_id for copy in copies if copy.snapshot_id.lower() == unbraced(given[0])]
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
        status = administration.revert_to_snapshot(unbraced(given[0]))
    session.tell(f"The revert of volume {status.volume} is under way; 'vssadmin query reverts' tells how far it is.")


def mask(session: Session, given: list[str]) -> None:
    """``MASK SET``: refused."""
    refuse_disks("MASK")


def break_set(session: Session, given: list[str]) -> None:
    """``BREAK [WRITABLE] SET DIRECTORY``: the directory is ours."""
    writable = bool(given) and given[0].lower() == "writable"
    rest = given[1:] if writable else given
    if len(rest) == 1:
        refuse_break("BREAK")
    if len(rest) != 2:
        raise UsageError("BREAK takes [WRITABLE], a shadow copy set's id and a directory for the volumes")
    make_volumes(CLIENT, rest[0], rest[1], writable, False, session.tell)


def import_set(session: Session, given: list[str]) -> None:
    """``IMPORT FILE``: the file, which ``shadowset export`` has made, is ours."""
    if not given:
        refuse_import("IMPORT")
    if len(given) != 1:
        raise UsageError("IMPORT takes a file that 'shadowset export' has made")
    with Administration(client=CLIENT) as administration:
        copy = administration.import_snapshot(os.path.abspath(given[0])).copy
    session.tell(f"Shadow copy {braced(copy.snapshot_id)} was imported as {printable(copy.device_object)}.")


def _choice(command: str, given: list[str], allowed: dict[str, int]) -> tuple[str, str]:
    """The first word and its value. Errors: UsageError."""
    what = given[0].lower() if given else ""
    if what not in allowed or len(given) != 1 + allowed[what]:
        forms = [f"{word.upper()}{' …' if count else ''}" for word, count in allowed.items()]
        raise UsageError(f"{command} takes {' | '.join(forms)}")
    return what, given[1] if len(given) > 1 else ""
