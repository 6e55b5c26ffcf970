"""diskshadow's commands of a restore: LOAD METADATA, SIMULATE, BEGIN and END RESTORE."""

from __future__ import annotations

from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.cli import UsageError
from shadowset.requester.sentences import printable
from shadowset.requester.windows.diskshadow.session import CLIENT, Session
from shadowset.requester.windows.restoration import Concerned, Restoration
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.documents.bundle import MAX_BUNDLE, open_bundle


def load_metadata(session: Session, given: list[str]) -> None:
    """``LOAD METADATA FILE``: documents that CREATE has saved."""
    if len(given) != 1:
        raise UsageError("LOAD METADATA takes the file to which SET METADATA had the documents saved")
    with open(given[0], "rb") as file:
        members = open_bundle(file.read(MAX_BUNDLE + 1)).members
    texts = [one.data.decode("utf-8") for one in members if isinstance(one.document, BackupComponentsDocument)]
    if not texts:
        raise VssError(Code.VSS_E_INVALID_XML_DOCUMENT, f"{given[0]} has no backup components document; take another")
    session.loaded = texts[0]
    session.tell(f"Loaded a backup components document and the metadata of {len(members) - 1} writers.")


def simulate_restore(session: Session, given: list[str]) -> None:
    """``SIMULATE RESTORE``: who would take part; no writer hears of it."""
    document = _document(session)
    with BackupComponents(client=CLIENT) as calls:
        _tell(session, _restoration(session, calls, document).choose(), "would be restored")


def begin_restore(session: Session, given: list[str]) -> None:
    """``BEGIN RESTORE``: the writers hear PreRestore. Then put the files back, with EXEC."""
    if session.restoration is not None:
        raise VssError(Code.VSS_E_BAD_STATE, "a restore is under way; END RESTORE first")
    document = _document(session)
    with session.lease() as calls:
        restoration = _restoration(session, calls, document)
        _tell(session, restoration.choose(), "is to be restored")
        restoration.begin()
    session.restoration = restoration


def end_restore(session: Session, given: list[str]) -> None:
    """``END RESTORE``: the writers hear PostRestore."""
    if session.restoration is None:
        raise VssError(Code.VSS_E_BAD_STATE, "no restore is under way; BEGIN RESTORE first")
    restoration, session.restoration = session.restoration, None
    restoration.end()


def _document(session: Session) -> str:
    if session.loaded is None:
        raise VssError(Code.VSS_E_BAD_STATE, "there are no documents to restore by; LOAD METADATA first")
    return session.loaded


def _restoration(session: Session, calls: BackupComponents, document: str) -> Restoration:
    settings = session.settings
    return Restoration(calls, document, tuple(settings.required), tuple(settings.excluded))


def _tell(session: Session, chosen: list[Concerned], what: str) -> None:
    for one in chosen:
        session.tell(printable(f'Component "{one.writer.name}:\\{one.component.full_path}" {what}.'))
