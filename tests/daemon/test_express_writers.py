"""Writers without a process: what their file says is what requesters see, at once, and nothing waits for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.daemon.express import ExpressWriters
from shadowset.vss import requester_protocol as rp
from shadowset.vss.documents import metadata_to_xml
from shadowset.vss.enums import BackupType, ComponentType, SnapshotState
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata

GUID = "6f0e3c52-8d0f-4d7e-9a52-2c1f0a6b7d10"
FILES = ComponentInfo(ComponentType.FILEGROUP, "data", files=(FileSet("/data", "*"),))
METADATA = WriterMetadata(GUID, "", "Old application", components=(FILES,))


def put(directory: str, name: str, metadata: WriterMetadata | str) -> None:
    os.makedirs(directory, exist_ok=True)
    text = metadata if isinstance(metadata, str) else metadata_to_xml(metadata)
    Path(f"{directory}/{name}.new").write_text(text)
    os.rename(f"{directory}/{name}.new", f"{directory}/{name}")


def test_what_is_wrong_with_a_file_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    directory = str(tmp_path / "express")
    writers = ExpressWriters(directory, lambda name, sentence: told.append(sentence))
    assert writers.links() == []
    put(directory, "a.xml", METADATA)
    put(directory, "b.xml", msgspec.structs.replace(METADATA, components=(msgspec.structs.replace(FILES, flags=1),)))
    database = ComponentInfo(ComponentType.DATABASE, "base", database_files=(FileSet("/data", "*"),))
    put(directory, "c.xml", msgspec.structs.replace(METADATA, components=(database,)))
    put(directory, "d.json", "{}")
    put(directory, "e.txt", "nothing of ours")
    (link,) = writers.links()
    assert writers.links() == [link], "an unchanged file is the same writer"
    assert len(told) == 3 and all(f"{directory}/{name}" in told[at] for at, name in enumerate(("b", "c", "d")))
    assert "flags" in told[0] and "file group" in told[1]
    put(directory, "b.xml", msgspec.structs.replace(METADATA, name="Another", instance_id=GUID))
    assert [each.hello.name for each in writers.links()] == ["Old application", "Another"]
    os.unlink(f"{directory}/a.xml")
    assert [each.hello.name for each in writers.links()] == ["Another"]


@pytest.mark.host
def test_its_components_are_backed_up_beside_those_of_a_process(host: Any) -> None:
    host.start()
    host.volume("one")
    put(host.paths.express_writers, "old.xml", METADATA)
    live = host.writer("Live")
    r = host.requester()
    assert {writer.name: writer.pid > 0 for writer in r.call(rp.ListWriters)} == {
        "Live": True,
        "Old application": False,
    }
    r.call(rp.InitializeForBackup)
    r.call(rp.SetBackupState, True, False, BackupType.FULL)
    found = {each.name: each for each in r.call(rp.GatherWriterMetadata)}
    for each in found.values():
        r.call(rp.AddComponent, each.writer_id, each.instance_id, ComponentType.FILEGROUP, "", "data")
    r.call(rp.StartSnapshotSet, volumes=["one"])
    r.call(rp.AddToSnapshotSet, "one")
    r.call(rp.PrepareForBackup)
    record = r.call(rp.DoSnapshotSet)
    assert record.status is SnapshotState.CREATED
    assert {writer.name: writer.failure.code for writer in record.writers} == {"Live": 0, "Old application": 0}
    assert not [entry for entry in record.timeline if "Old application" in entry.actor], "it was told nothing"
    document = r.call(rp.GetDocument)
    assert {writer.writer_id for writer in document.writers} == {GUID, live.writer_id}
    r.call(rp.BackupComplete)
    os.unlink(f"{host.paths.express_writers}/old.xml")
    assert [writer.name for writer in r.call(rp.ListWriters)] == ["Live"]
