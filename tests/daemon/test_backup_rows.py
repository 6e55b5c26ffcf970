"""What a backup tells its writers and its requester: documents, components, outcomes, time line; a crash image."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.requester.backup_components import BackupComponents, ComponentKey
from shadowset.vss import requester_protocol as rp
from shadowset.vss import writer_protocol as wp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute, BackupType, ComponentType, Context, Level, SnapshotState

pytestmark = pytest.mark.host


@pytest.mark.vss(2)
def test_documents_are_the_same_during_another_backup(host: Any, backup: Any) -> None:
    host.start()
    host.volume("one")
    writers = [host.writer(f"Writer {number}") for number in range(3)]

    def documents() -> list[bytes]:
        requester = host.requester()
        requester.call(rp.InitializeForBackup)
        return sorted(map(msgspec.json.encode, requester.call(rp.GatherWriterMetadata)))

    before = documents()
    run = backup(["one"]).prepare()
    during = documents()
    record = run.make()
    assert before == during == documents() and len(before) == len(writers)
    assert record.status is SnapshotState.CREATED
    assert all(each.failure.code == 0 for each in run.status().values()), "being asked again changes no session"


@pytest.mark.vss(9)
def test_how_each_component_went_reaches_its_writer(host: Any) -> None:
    host.start()
    host.volume("one")
    writers = [host.writer("Good"), host.writer("Bad"), host.writer("Unsaid")]
    with BackupComponents(host.paths) as calls:
        calls.initialize_for_backup()
        calls.set_backup_state(True, False, BackupType.FULL)
        calls.gather_writer_metadata().result()
        keys = [ComponentKey(w.writer_id, w.instance_id, ComponentType.FILEGROUP, "", "data") for w in writers]
        for key in keys:
            calls.add_component(key)
        calls.start_snapshot_set(volumes=["one"])
        calls.add_to_snapshot_set("one")
        calls.prepare_for_backup().result()
        calls.do_snapshot_set().result()
        calls.set_backup_succeeded(keys[0], True)
        calls.set_backup_succeeded(keys[1], False)
        calls.backup_complete().result()
    told = [next(e for e in writer.seen if e.event.value == "backup-complete") for writer in writers]
    assert [event.components[0].backup_succeeded for event in told] == [True, False, False]


@pytest.mark.vss(14)
def test_a_backup_by_volumes_names_no_components(host: Any, backup: Any) -> None:
    host.start()
    place = host.volume("one")
    writers = [host.writer("Front"), host.writer("Back", Level.BACK_END)]
    run = backup(["one"], components=False).prepare()
    run.make()
    run.requester.call(rp.BackupComplete)
    run.requester.close()
    for writer in writers:
        host.until(lambda w=writer: w.names()[-1] == "backup-shutdown", "the end of the backup")
        assert all(event.components is None for event in writer.seen)
        assert {event.select_components for event in writer.seen[1:]} == {False}
        (prepare,) = [event for event in writer.seen if event.event.value == "prepare-snapshot"]
        assert [(volume.name, volume.mount_points) for volume in prepare.volumes] == [("one", [place])]
        expected = ["prepare-backup", "prepare-snapshot", "freeze", "thaw", "post-snapshot", "backup-complete"]
        assert writer.names() == ["identify", *expected, "backup-shutdown"]


@pytest.mark.vss(15)
def test_an_operation_is_pending_finished_or_cancelled(host: Any) -> None:
    host.start()
    host.volume("one")
    writer = host.writer()
    asked, answer = threading.Event(), threading.Event()
    writer.on["identify"] = lambda e: (asked.set(), answer.wait(60), writer.default(e))[2]
    with BackupComponents(host.paths) as calls:
        calls.initialize_for_backup()
        calls.set_context(Context.BACKUP)
        calls.set_backup_state(False, False, BackupType.COPY)
        gathering = calls.gather_writer_metadata()
        assert asked.wait(60)
        assert gathering.query_status() == gathering.wait(0.01) == Code.VSS_S_ASYNC_PENDING
        answer.set()
        assert gathering.wait() == gathering.query_status() == Code.VSS_S_ASYNC_FINISHED
        gathering.cancel()
        assert len(gathering.result()) == 1, "what is finished stays so"
        calls.start_snapshot_set()
        calls.add_to_snapshot_set("one")
        asked.clear()
        writer.on["prepare-backup"] = lambda e: (asked.set(), None)[1]
        preparing = calls.prepare_for_backup()
        assert asked.wait(60)
        preparing.cancel()
        assert preparing.wait(60) == Code.VSS_S_ASYNC_CANCELLED
        with pytest.raises(VssError) as caught:
            preparing.result()
        assert caught.value.code == Code.VSS_S_ASYNC_CANCELLED


@pytest.mark.vss(29)
def test_the_time_line_has_every_step_and_no_line_was_logged_meanwhile(host: Any, backup: Any) -> None:
    host.start()
    place = host.volume("one")
    writer = host.writer("Traced")
    sizes: list[int] = []

    def note(path: Path) -> wp.Reply | None:
        sizes.append(path.stat().st_size)
        return None

    mark = f"{host.base}/held"
    host.faults("one", hold={"mark": mark, "delay": 1.0})
    run = backup(["one"]).prepare()
    seq = run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), "the hold")
    note(host.log)
    with pytest.raises(VssError):  # a refused call is a line of the log, at any other time
        host.requester().call(rp.GetSet, "nowhere")
    host.requester(hello=False).close()
    note(host.log)
    record = run.requester.result(seq, rp.DoSnapshotSet)
    assert sizes[0] == sizes[1], "a line was written while a file system was frozen"
    steps = {(entry.actor.split(" [")[0], entry.phase) for entry in record.timeline}
    volume, system, traced = "volume one", f"file system {place}", "writer Traced"
    assert {(volume, phase) for phase in ("hold", "commit", "release")} <= steps
    assert {(system, "freeze"), (system, "frozen"), ("coordinator", "flush")} <= steps
    assert {(traced, phase) for phase in ("prepare-snapshot", "freeze", "thaw", "post-snapshot")} <= steps
    begins = {(entry.actor, entry.phase): entry.start_ms for entry in record.timeline}
    assert begins[volume, "hold"] <= begins[volume, "commit"] <= begins[volume, "release"]
    assert writer.names()[-1] == "post-snapshot"


@pytest.mark.vss(85)
def test_a_copy_without_writers_is_what_a_power_cut_leaves(host: Any, backup: Any) -> None:
    """Files are written one after the other, each synced: a crash image has a beginning of them, whole, and no hole."""
    host.start()
    place = host.volume("one")
    written, stop = [0], threading.Event()

    def write() -> None:
        while not stop.is_set() and written[0] < 300:
            descriptor = os.open(f"{place}/{written[0]:03}", os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, b"%03d" % written[0] * 100)
            os.fsync(descriptor)
            os.close(descriptor)
            written[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        host.until(lambda: written[0] > 20, "some files")
        before = written[0]
        record = backup(["one"], context=Context.FILE_SHARE_BACKUP | Attribute.DIFFERENTIAL).make()
        after = written[0]
    finally:
        stop.set()
        thread.join()
    assert record.writers == []
    image = f"{host.storage('one')}/{record.snapshots[0].snapshot_id}.img"
    checked = subprocess.run(["e2fsck", "-f", "-n", image], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    names = subprocess.run(["debugfs", "-R", "ls -p /", image], capture_output=True, text=True, check=True).stdout
    entries = [line.split("/") for line in names.splitlines() if line.count("/") >= 6]
    found = sorted(entry[5] for entry in entries if entry[5].isdigit())
    assert before <= len(found) <= after + 1 and found == [f"{number:03}" for number in range(len(found))]
    for name in found[: before - 1]:
        text = subprocess.run(["debugfs", "-R", f"cat {name}", image], capture_output=True, check=True).stdout
        assert text == name.encode() * 100
