"""Writers that run and did not answer identify: the coordinator goes on without them, a backup must not be silent."""

from __future__ import annotations

from collections.abc import Collection

from shadowset.requester.backup.plan import Choice
from shadowset.vss.codes import Code, VssError
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.requester_protocol import WriterStatus
from shadowset.vss.selection import Selector


def undescribed(before: list[WriterStatus], described: Collection[tuple[str, str]]) -> list[WriterStatus]:
    """The writers connected ``before`` the question that are not among ``described`` (class and instance ids)."""
    return [writer for writer in before if writer.connected and (writer.writer_id, writer.instance_id) not in described]


def undescribed_text(writer: WriterStatus, after: list[WriterStatus]) -> str:
    """One such writer, as a sentence; ``after`` are the writers' states after the question, which say why."""
    known = next((one for one in after if one.instance_id == writer.instance_id), None)
    reason = known.failure.message if known else "its process is gone"
    why = f" ({reason})" if reason else ""
    process = f" of process {writer.pid}" if writer.pid else ""
    return f"writer {writer.name}{process} is left out: it did not describe itself when asked{why}; see to its process"


def is_concerned(writer: WriterStatus, choice: Choice) -> bool:
    """Whether the backup that the user asked for would have this writer in it."""
    if any(_names(selector, writer) and not selector.path for selector in choice.excluded):
        return False
    return choice.wanted is None or any(_names(selector, writer) for selector in choice.wanted)


def without_selectors_of(
    silent: list[WriterStatus], writers: list[WriterMetadata], excluded: tuple[Selector, ...]
) -> tuple[Selector, ...]:
    """``excluded`` without what names only silent writers: it is met already, and the plan does not know them."""
    return tuple(selector for selector in excluded if not _names_only(selector, silent, writers))


def refuse_wanted(
    silent: list[WriterStatus], writers: list[WriterMetadata], after: list[WriterStatus], choice: Choice
) -> None:
    """Refuse a backup of which the user named a silent writer. Errors: VSS_E_OBJECT_NOT_FOUND."""
    for selector in choice.wanted or ():
        if _names_only(selector, silent, writers):
            writer = next(one for one in silent if _names(selector, one))
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, undescribed_text(writer, after))


def _names(selector: Selector, writer: WriterStatus) -> bool:
    return selector.names(WriterMetadata(writer.writer_id, writer.instance_id, writer.name))


def _names_only(selector: Selector, silent: list[WriterStatus], writers: list[WriterMetadata]) -> bool:
    return not any(selector.names(one) for one in writers) and any(_names(selector, one) for one in silent)
