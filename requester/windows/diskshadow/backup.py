"""diskshadow's commands that make shadow copy sets: SET, ADD, BEGIN and END BACKUP, CREATE, WRITER, EXEC."""

from __future__ import annotations

import os

from shadowset.requester.backup.manifest import write_atomically
from shadowset.requester.backup.verdicts import writer_failure_text
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.cli import UsageError
from shadowset.requester.windows.creation import Creation, Made, or_take_back
from shadowset.requester.windows.diskshadow.session import CLIENT, SET_ALIAS, Session
from shadowset.requester.windows.diskshadow.settings import Volume
from shadowset.requester.windows.scripts import run_file
from shadowset.requester.windows.shadow_text import DISKSHADOW, copy_text
from shadowset.requester.windows.words import braced
from shadowset.vss.codes import Code, VssError
from shadowset.vss.documents.bundle import make_bundle
from shadowset.vss.selection import Selector


def show_settings(session: Session, given: list[str]) -> None:
    """``SET``."""
    session.tell(session.settings.text())


def set_context(session: Session, given: list[str]) -> None:
    """``SET CONTEXT …``."""
    session.settings.set_context(given)


def set_option(session: Session, given: list[str]) -> None:
    """``SET OPTION …``."""
    session.settings.set_option(given)


def set_metadata(session: Session, given: list[str]) -> None:
    """``SET METADATA FILE``: where CREATE saves the documents."""
    if len(given) != 1:
        raise UsageError("SET METADATA takes the file to which the documents are saved")
    session.settings.metadata = os.path.abspath(given[0])


def set_verbose(session: Session, given: list[str]) -> None:
    """``SET VERBOSE ON|OFF``."""
    if [word.lower() for word in given] not in (["on"], ["off"]):
        raise UsageError("SET VERBOSE takes ON or OFF")
    session.settings.verbose = given[0].lower() == "on"


def show_added(session: Session, given: list[str]) -> None:
    """``ADD``: the volumes of the set to come, and the aliases."""
    for volume in session.settings.volumes:
        session.tell(f"Volume: {volume.volume}" + (f"\t%{volume.alias}%" if volume.alias else ""))
    for name, value in session.aliases.items():
        session.tell(f"Alias: %{name}% = {value}")


def add_volume(session: Session, given: list[str]) -> None:
    """``ADD VOLUME VOLUME [PROVIDER ID] [ALIAS NAME]``; whether it can be copied is asked at once."""
    if not given:
        raise UsageError("ADD VOLUME takes a volume, then PROVIDER ID and ALIAS NAME where wanted")
    added = session.settings.add_volume(given)
    try:
        _require_supported(added)
    except BaseException:
        session.settings.volumes.remove(added)
        raise


def _require_supported(added: Volume) -> None:
    with BackupComponents(client=CLIENT) as calls:
        calls.initialize_for_backup()
        if not calls.is_volume_supported(added.volume, added.provider):
            raise VssError(
                Code.VSS_E_VOLUME_NOT_SUPPORTED,
                f"no shadow copies can be made of {added.volume}; 'shadowset volume list' shows of what they can",
            )


def add_alias(session: Session, given: list[str]) -> None:
    """``ADD ALIAS NAME VALUE``."""
    if len(given) != 2:
        raise UsageError("ADD ALIAS takes a name and its value")
    session.set_alias(given[0], given[1])


def begin_backup(session: Session, given: list[str]) -> None:
    """``BEGIN BACKUP``: the set is part of a full backup; before CREATE."""
    if session.creation:
        raise VssError(Code.VSS_E_BAD_STATE, "BEGIN BACKUP must come before CREATE; RESET begins anew")
    session.settings.full_backup = True


def create(session: Session, given: list[str]) -> None:
    """``CREATE``: make the set, save its documents, set the aliases and list it."""
    wish = session.settings.wish()
    with session.lease() as calls:
        creation = Creation(calls, wish)
        made = creation.make()
        with or_take_back(calls, made):
            _save_documents(session, creation, made)
    session.creation, session.completed = (creation, made), False
    if session.settings.verbose:
        session.tell("\n".join(made.details()))
    _name_copies(session, made)
    session.tell(f"\nQuerying all shadow copies with the shadow copy set ID {braced(made.record.set_id)}\n")
    for copy in made.copies:
        session.tell(copy_text(copy, DISKSHADOW, session.names_by_id))
    session.tell(f"Number of shadow copies listed: {len(made.copies)}")


def _name_copies(session: Session, made: Made) -> None:
    for number, (volume, copy) in enumerate(zip(session.settings.volumes, made.copies, strict=True), start=1):
        name = volume.alias or f"VSS_SHADOW_{number}"
        session.set_alias(name, braced(copy.snapshot_id))
        session.tell(f"Alias {name} for shadow ID {braced(copy.snapshot_id)} set as environment variable.")
    session.set_alias(SET_ALIAS, braced(made.record.set_id))
    session.tell(f"Alias {SET_ALIAS} for shadow set ID {braced(made.record.set_id)} set as environment variable.")


def _save_documents(session: Session, creation: Creation, made: Made) -> None:
    if not session.settings.metadata:
        return
    documents = creation.documents(made)
    if documents:
        write_atomically(session.settings.metadata, make_bundle(documents))
        session.tell(f"The documents are in {session.settings.metadata}.")
    else:
        session.tell("No documents are saved: in a context without writers there are none.")


def end_backup(session: Session, given: list[str]) -> None:
    """``END BACKUP``: the writers hear BackupComplete, and the saved documents say how it went."""
    if not session.settings.full_backup or session.creation is None or session.completed:
        raise VssError(Code.VSS_E_BAD_STATE, "END BACKUP comes once, after BEGIN BACKUP and CREATE")
    creation, made = session.creation
    failed = creation.complete(made)
    session.completed = True
    _save_documents(session, creation, made)
    if failed:
        raise VssError(failed[0].failure.code, f"after the backup {writer_failure_text(failed[0])}")


def verify_writer(session: Session, given: list[str]) -> None:
    """``WRITER VERIFY NAME|ID[:\\PATH]``."""
    session.settings.required.append(_selector("VERIFY", given))


def exclude_writer(session: Session, given: list[str]) -> None:
    """``WRITER EXCLUDE NAME|ID[:\\PATH]``."""
    session.settings.excluded.append(_selector("EXCLUDE", given))


def _selector(verb: str, given: list[str]) -> Selector:
    if not given:
        raise UsageError(f"WRITER {verb} takes a writer's name or id, and after :\\ a component's path")
    return Selector.parse(" ".join(given))


def execute(session: Session, given: list[str]) -> None:
    """``EXEC FILE``: a program or shell script, with the aliases in its environment. Errors: ScriptFailed."""
    if len(given) != 1:
        raise UsageError("EXEC takes one file; put parameters into a script")
    run_file(given[0], session.aliases)
