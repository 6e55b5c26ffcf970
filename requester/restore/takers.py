"""Which running writer takes what was backed up, and what it left in the document about it."""

from __future__ import annotations

from shadowset.requester.restore.choose import RestoreItem
from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.components import BackupComponentsDocument, Component, WriterComponents
from shadowset.vss.instances import taker_of
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.selection import guid_key


def component_of(document: BackupComponentsDocument, item: RestoreItem) -> Component | None:
    """What the document says of the component that answers for an item."""
    for writer in document.writers:
        if (guid_key(writer.writer_id), guid_key(writer.instance_id)) == item.instance:
            return writer.component(item.component.logical_path, item.component.name)
    return None


def refusal_text(component: Component, message: str) -> str:
    """What a component's writer says, with the code if there is one."""
    failure = component.failure
    code = f" [{describe(failure.code)}]" if failure.code else ""
    return f"{message or failure.message}{code}"


def require_taker(
    item: RestoreItem, entries: list[WriterComponents], running: list[WriterMetadata], instance: str
) -> str:
    """The id of the instance that takes an item. Errors: VSS_E_OBJECT_NOT_FOUND."""
    same_class = [each for each in running if guid_key(each.writer_id) == item.instance[0]]
    if instance:
        if any(guid_key(each.instance_id) == guid_key(instance) for each in same_class):
            return guid_key(instance)
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND, f"no instance {instance} of writer {item.metadata.name} runs; list the writers"
        )
    for entry in entries:
        if (guid_key(entry.writer_id), guid_key(entry.instance_id)) == item.instance:
            taker = taker_of(entry, entries, running)
            if taker is not None:
                return guid_key(taker.instance_id)
    which = f"; {len(same_class)} others of its class run, and none is the one that was backed up" if same_class else ""
    raise VssError(
        Code.VSS_E_OBJECT_NOT_FOUND,
        f"writer {item.metadata.name} does not run, so its component {item.path} cannot be restored{which}; "
        "start it, or restore the files with --to DIR",
    )
