"""Wishes of a restore: kept and handed to the writer where its schema has the bit, refused by name where not."""

from __future__ import annotations

from typing import Any

import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument, Component, PartialFile, WriterComponents
from shadowset.vss.documents import components_from_xml, components_to_xml
from shadowset.vss.enums import BackupSchema, BackupType, ComponentType, RollForward
from shadowset.vss.metadata import LocationMapping

ALL = (
    BackupSchema.WRITER_SUPPORTS_NEW_TARGET
    | BackupSchema.AUTHORITATIVE_RESTORE
    | BackupSchema.RESTORE_RENAME
    | BackupSchema.ROLLFORWARD_RESTORE
    | BackupSchema.WRITER_SUPPORTS_RESTORE_WITH_MOVE
)


def entry(writer: Any, schema: int, names: tuple[str, ...] = ("data",)) -> WriterComponents:
    """What was backed up of a writer, with its class and instance as they run now."""
    partial = [PartialFile("/data", "big", "0:4096")]
    components = [Component(ComponentType.FILEGROUP, "", name, partial_files=partial) for name in names]
    return WriterComponents(writer.writer_id, writer.instance_id, writer.name, "", int(schema), components)


def restoring(host: Any, *entries: WriterComponents) -> Any:
    requester = host.requester()
    document = BackupComponentsDocument(backup_type=BackupType.FULL, writers=list(entries))
    requester.call(rp.InitializeForRestore, components_to_xml(document))
    requester.call(rp.GatherWriterMetadata)
    return requester


def key(writer: Any, name: str = "data") -> tuple[Any, ...]:
    return writer.writer_id, writer.instance_id, ComponentType.FILEGROUP, "", name


def refusal(requester: Any, kind: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(VssError) as caught:
        requester.call(kind, *arguments)
    return caught.value.code, caught.value.message


WISHES: list[tuple[Any, tuple[Any, ...]]] = [
    (rp.AddNewTarget, ("/data", "*", False, "/new")),
    (rp.SetAuthoritativeRestore, (True,)),
    (rp.SetRestoreName, ("orders-2",)),
    (rp.SetRollForward, (RollForward.PARTIAL, "2026-11-21T12:00")),
]


def test_wishes_reach_the_writer_that_supports_them(host: Any) -> None:
    host.start()
    writer = host.writer("Able")
    requester = restoring(host, entry(writer, ALL))
    requester.call(rp.SetSelectedForRestore, *key(writer))
    requester.call(rp.AddNewTarget, *key(writer), "/data", "*", False, "/first")
    for kind, arguments in WISHES:
        requester.call(kind, *key(writer), *arguments)
    requester.call(rp.SetRangesFilePath, *key(writer), 0, "/restore/ranges")
    requester.call(rp.PreRestore)
    told = writer.seen[-1].components[0]
    assert told.new_targets == [LocationMapping("/data", "*", False, "/new")], "the second of a file set replaces"
    assert (told.authoritative_restore, told.restore_name) == (True, "orders-2")
    assert (told.roll_forward, told.roll_forward_point) == (RollForward.PARTIAL, "2026-11-21T12:00")
    assert told.partial_files[0].ranges == "/restore/ranges"
    saved = requester.call(rp.SaveAsXml)
    assert components_from_xml(saved).writers[0].components == [told]


def test_wishes_are_refused_without_the_schema_bit(host: Any) -> None:
    host.start()
    writer = host.writer("Plain")
    requester = restoring(host, entry(writer, 0))
    for kind, arguments in (*WISHES, (rp.SetSelectedForRestoreEx, (True, writer.instance_id))):
        code, message = refusal(requester, kind, *key(writer), *arguments)
        assert code == Code.VSS_E_NOT_SUPPORTED and "in its backup schema" in message
    (component,) = requester.call(rp.GetDocument).writers[0].components
    assert component == entry(writer, 0).components[0], "a refused wish leaves nothing behind"


def test_wishes_that_make_no_sense(host: Any) -> None:
    host.start()
    writer = host.writer("Able")
    requester = restoring(host, entry(writer, ALL))
    for kind, arguments, code in (
        (rp.AddNewTarget, ("/data", "*.x", False, "/new"), Code.VSS_E_OBJECT_NOT_FOUND),
        (rp.AddNewTarget, ("/data", "*", True, "/new"), Code.VSS_E_OBJECT_NOT_FOUND),
        (rp.AddNewTarget, ("/data", "*", False, "new"), Code.E_INVALIDARG),
        (rp.SetRollForward, (RollForward.ALL, "x"), Code.E_INVALIDARG),
        (rp.SetRollForward, (RollForward.PARTIAL, ""), Code.E_INVALIDARG),
        (rp.SetRangesFilePath, (1, "/ranges"), Code.VSS_E_OBJECT_NOT_FOUND),
        (rp.SetRangesFilePath, (-1, "/ranges"), Code.VSS_E_OBJECT_NOT_FOUND),
        (rp.SetRangesFilePath, (0, "ranges"), Code.E_INVALIDARG),
        (rp.SetSelectedForRestoreEx, (True, "0a4e7c55-9d0b-4a53-8f0e-7a3c2b1d9e21"), Code.VSS_E_OBJECT_NOT_FOUND),
    ):
        assert refusal(requester, kind, *key(writer), *arguments)[0] == code
    (component,) = requester.call(rp.GetDocument).writers[0].components
    assert component == entry(writer, 0).components[0]


def test_another_instance_takes_the_components(host: Any) -> None:
    host.start()
    old = host.writer("Moved", instance_name="old")
    new = host.writer("Moved", writer_id=old.writer_id, instance_name="new")
    backed_up = entry(old, ALL, ("data", "more"))
    requester = restoring(host, backed_up, entry(new, ALL))
    requester.call(rp.SetSelectedForRestoreEx, *key(old), True, "{" + new.instance_id.upper() + "}")
    assert refusal(requester, rp.SetSelectedForRestore, *key(old, "more"))[0] == Code.VSS_E_OBJECT_ALREADY_EXISTS
    assert "already takes" in refusal(requester, rp.SetSelectedForRestore, *key(new))[1]
    requester.call(rp.SetSelectedForRestoreEx, *key(old, "more"), True, new.instance_id)
    requester.call(rp.PreRestore)
    requester.call(rp.PostRestore)
    assert new.names() == ["identify", "pre-restore", "post-restore"] and old.names() == ["identify"]
    assert [each.name for each in new.seen[-1].components] == ["data", "more"]
    requester.close()

    requester = restoring(host, backed_up, entry(new, ALL))
    requester.call(rp.SetSelectedForRestoreEx, *key(old), True, new.instance_id)
    requester.call(rp.SetSelectedForRestoreEx, *key(old), False, new.instance_id)
    requester.call(rp.SetSelectedForRestore, *key(old))
    requester.call(rp.PreRestore)
    assert old.names()[-1] == "pre-restore" and new.names()[-1] == "identify"
