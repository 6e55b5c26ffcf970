"""Several instances of one writer class: each is a writer of its own, also when it is restored."""

from __future__ import annotations

from typing import Any

import pytest

from shadowset.requester.backup_components import BackupComponents, ComponentKey
from shadowset.vss.components import Component, WriterComponents
from shadowset.vss.enums import ComponentType, FileRestoreStatus, RestoreType, WriterEvent
from shadowset.vss.instances import taker_of
from shadowset.vss.metadata import ComponentInfo, WriterMetadata

CLASS = "5affb034-969f-4919-8875-88f830d0ef89"
FILEGROUP = ComponentType.FILEGROUP


def metadata(instance: str, *components: str, name: str = "") -> WriterMetadata:
    infos = tuple(ComponentInfo(FILEGROUP, each) for each in components)
    return WriterMetadata(CLASS, instance, "W", instance_name=name, components=infos)


def entry(instance: str, *components: str, name: str = "") -> WriterComponents:
    return WriterComponents(CLASS.upper(), instance, "W", name, 0, [Component(FILEGROUP, "", c) for c in components])


@pytest.mark.parametrize(
    ("backed_up", "running", "takers"),
    [
        ([entry("1", "a"), entry("2", "b")], [metadata("2", "b"), metadata("1", "a")], ["1", "2"]),
        ([entry("1", "a", name="x"), entry("2", "a", name="y")],
         [metadata("8", "a", name="y"), metadata("9", "a", name="x")], ["9", "8"]),
        ([entry("1", "a"), entry("2", "b")], [metadata("8", "b"), metadata("9", "a")], ["9", "8"]),
        ([entry("1", "a")], [metadata("9")], ["9"]),
        ([entry("1", "a")], [metadata("8"), metadata("9")], [None]),
        ([entry("1", "a"), entry("2", "b")], [metadata("2", "b")], [None, "2"]),
        ([entry("1", "a", name="x")], [metadata("9", "a", name="y")], [None]),
        ([entry("1", "a")], [], [None]),
    ],
)  # fmt: skip
def test_who_takes_what_was_backed_up(
    backed_up: list[WriterComponents], running: list[WriterMetadata], takers: list[str | None]
) -> None:
    found = [taker_of(each, backed_up, running) for each in backed_up]
    assert [each.instance_id if each else None for each in found] == takers


def config(name: str, more: str = "") -> str:
    return (
        '[restore_method]\nmethod = "RESTORE_IF_CAN_REPLACE"\n[[component]]\ncomponent_type = "filegroup"\n'
        f'component_name = "{name}"\ncomponent_file = [{{ path = "{{data}}/{name}", filespec = "*", {{live}} }}]\n'
        + more
    )


REFUSAL = '[[action]]\nwriter_event = "PreRestore"\ncode = "VSS_E_WRITERERROR_NONRETRYABLE"\nmessage = "not now"\n'


@pytest.mark.vss(35)
def test_one_instances_refusal_is_not_the_others(service: Any) -> None:
    for name in ("one", "two"):
        (service.data / name).mkdir()
        (service.data / name / "file").write_bytes(name.encode())
    writers = [service.writer(config("one")), service.writer(config("two"))]
    assert service.backup("b").succeeded
    for writer in writers:
        service.stop(writer)
    service.writer(config("two"))
    service.writer(config("one", REFUSAL))
    for name in ("one", "two"):
        (service.data / name / "file").write_bytes(b"newer")
    report = service.restore("b")
    assert not report.succeeded and not report.problems
    results = {each.component: each for each in report.components}
    assert results["one"].status == FileRestoreStatus.NONE and "not now" in results["one"].reason
    assert results["two"].status == FileRestoreStatus.ALL
    assert (service.data / "one/file").read_bytes() == b"newer"
    assert (service.data / "two/file").read_bytes() == b"two"


def test_a_restore_without_a_type_is_one_by_copy(service: Any) -> None:
    seen: list[RestoreType] = []
    (service.data / "one").mkdir()
    writer = service.writer(config("one"))
    original = writer.handle

    def handle(event: Any) -> Any:
        if event.event is WriterEvent.PRE_RESTORE:
            seen.append(event.restore_type)
        return original(event)

    writer.handle = handle
    assert service.backup("b").succeeded
    assert service.restore("b").succeeded
    document = (service.directory / "b/BackupComponents.xml").read_text()
    # A document that an earlier restore of another kind has left.
    document = document.replace('restoreType="undefined"', 'restoreType="import"')
    document = document.replace('componentName="one"', 'componentName="one" selectedForRestore="yes"')
    with BackupComponents(service.paths) as calls:
        calls.initialize_for_restore(document)
        calls.gather_writer_metadata().result()
        assert not calls.get_document().writers[0].components[0].selected_for_restore
        calls.pre_restore().result()
    assert seen == [RestoreType.BY_COPY], "nothing is selected in the second restore"
    with BackupComponents(service.paths) as calls:
        calls.initialize_for_restore(document)
        calls.gather_writer_metadata().result()
        entry = calls.get_document().writers[0]
        component = entry.components[0]
        key = ComponentKey(entry.writer_id, entry.instance_id, component.type, "", component.name)
        calls.set_selected_for_restore(key)
        calls.pre_restore().result()
    assert seen == [RestoreType.BY_COPY] * 2
