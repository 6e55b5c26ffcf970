"""Shadow copy sets with two real file systems: what they hold, what was told to whom, and what is left at the end."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from shadowset.daemon.volume_checks import check_nesting
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Context, Level, ObjectType, ProviderCapability, ProviderType, SnapshotState, WriterState
from shadowset.vss.provider import VolumeFacts

pytestmark = pytest.mark.host


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


@pytest.mark.vss(6, 8, 87, 113)
def test_two_volumes_one_instant(host: Any, backup: Any) -> None:
    host.start()
    one, two = host.volume("one", "ext4"), host.volume("two", "xfs")
    front = host.writer("Front", Level.FRONT_END)
    back = host.writer("Back", Level.BACK_END)
    write(f"{one}/file", "before")
    write(f"{two}/file", "before")
    run = backup(["one", two]).prepare()
    record = run.make()
    write(f"{one}/file", "after")

    assert record.status is SnapshotState.CREATED
    assert {copy.created_ns for copy in record.snapshots} == {record.created_ns}
    assert [copy.original_volume for copy in record.snapshots] == ["one", "two"]
    assert all(times.frozen_ms > 0 and times.hold_ms > 0 for times in record.volumes)
    assert record.skew_ms >= 0
    assert front.names() == ["identify", "prepare-backup", "prepare-snapshot", "freeze", "thaw", "post-snapshot"]
    times = {writer.name: dict(writer.events) for writer in (front, back)}
    assert times["Front"]["freeze"] < times["Back"]["freeze"] < times["Back"]["thaw"] < times["Front"]["thaw"]
    assert {each.state for each in run.status().values()} == {WriterState.WAITING_FOR_BACKUP_COMPLETE}

    place = run.requester.call(rp.ExposeSnapshot, run.ids[0])
    other = str(host.base / "elsewhere")
    os.mkdir(other)
    assert run.requester.call(rp.ExposeSnapshot, run.ids[1], other) == other
    assert (read(f"{place}/file"), read(f"{other}/file")) == ("before", "before")
    with pytest.raises(OSError, match="Read-only"):
        write(f"{place}/file", "no")
    run.requester.call(rp.UnexposeSnapshot, run.ids[0])
    assert not os.path.exists(place)

    for each in run.metadata:
        run.requester.call(rp.SetBackupSucceeded, each.writer_id, each.instance_id, 2, "", "data", True)
    run.requester.call(rp.BackupComplete)
    assert {each.state for each in run.status().values()} == {WriterState.STABLE}
    xml = run.requester.call(rp.SaveAsXml)
    assert run.set_id in xml and front.writer_id in xml

    run.requester.close()
    watcher = host.requester()
    host.until(lambda: not watcher.call(rp.Query), "the auto-release copies to go")
    host.until(lambda: front.names()[-1] == "backup-shutdown" and back.names()[-1] == "backup-shutdown", "shutdown")
    assert front.names()[-2:] == ["backup-complete", "backup-shutdown"]
    assert not os.path.ismount(other)
    assert not os.path.exists(host.paths.frozen)


def test_persistent_copies_stay_and_are_deleted_on_demand(host: Any, backup: Any) -> None:
    host.start()
    place = host.volume("vol")
    write(f"{place}/file", "kept")
    run = backup(["vol"], context=Context.NAS_ROLLBACK)
    record = run.make()
    run.requester.close()
    requester = host.requester()
    assert [copy.snapshot_id for copy in requester.call(rp.Query)] == run.ids
    assert requester.call(rp.GetSnapshotProperties, run.ids[0]).device_number == 1
    assert os.path.exists(f"{host.paths.objects}/1.json")
    requester.call(rp.ExposeSnapshot, run.ids[0])
    refused = requester.call(rp.DeleteSnapshots, record.set_id, ObjectType.SNAPSHOT_SET)
    assert (refused.deleted, refused.not_deleted) == (0, run.ids[0]) and "shadowset umount" in refused.message
    done = requester.call(rp.DeleteSnapshots, record.set_id, ObjectType.SNAPSHOT_SET, True)
    assert done.deleted == 1
    assert not os.path.exists(f"{host.paths.objects}/1.json")
    with pytest.raises(VssError) as caught:
        requester.call(rp.DeleteSnapshots, run.ids[0])
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND
    again = backup(["vol"], context=Context.NAS_ROLLBACK).make()
    assert again.snapshots[0].device_number == 2


def test_restart_keeps_persistent_copies_and_drops_the_rest(host: Any, backup: Any) -> None:
    host.start()
    host.volume("vol")
    kept = backup(["vol"], context=Context.NAS_ROLLBACK).make()
    backup(["vol"], context=Context.FILE_SHARE_BACKUP).make()
    pid = host.provider_pid("vol")
    exposed = host.requester().call(rp.ExposeSnapshot, kept.snapshots[0].snapshot_id)
    host.kill()
    host.start()
    requester = host.requester()
    assert [copy.snapshot_id for copy in requester.call(rp.Query)] == [kept.snapshots[0].snapshot_id]
    assert host.provider_pid("vol") == pid
    info = requester.call(rp.VolumeList)[0]
    assert (info.state, info.copies, info.mount_points) == ("online", 1, host.mounts)
    assert os.path.ismount(exposed)
    assert requester.call(rp.GetSet, kept.set_id).status is SnapshotState.CREATED
    assert os.listdir(host.paths.objects) == ["1.json"]
    assert len([name for name in os.listdir(host.storage("vol")) if name.endswith(".img")]) == 1
    assert any(event.name == "set-created" for event in requester.call(rp.ListEvents))


def test_a_dead_provider_is_restarted(host: Any, backup: Any) -> None:
    host.start()
    host.volume("vol")
    pid = host.provider_pid("vol")
    os.kill(pid, 9)
    host.until(lambda: host.provider_pid("vol") not in (0, pid), "a new provider")
    requester = host.requester()
    info = requester.call(rp.VolumeList)[0]
    assert (info.restarts, info.last_end, info.state, info.message) == (1, "was ended by SIGKILL", "online", "")
    [lost] = [event for event in requester.call(rp.ListEvents) if event.name == "provider-lost"]
    assert "was ended by SIGKILL and is started again" in lost.message
    assert backup(["vol"], context=Context.FILE_SHARE_BACKUP).make().status is SnapshotState.CREATED


@pytest.mark.vss(13)
def test_a_writer_without_components_hears_nothing_after_prepare_backup(host: Any, backup: Any) -> None:
    host.start()
    host.volume("vol")
    writer = host.writer()
    run = backup(["vol"], components=True)
    other = host.writer("Late")
    run.prepare().make()
    assert other.names() == []
    idle = host.writer("Idle")
    r = host.requester()
    run.requester.close()
    host.until(lambda: writer.names()[-1] == "backup-shutdown", "shutdown")
    r.call(rp.InitializeForBackup)
    r.call(rp.SetBackupState, True, False, 1)
    r.call(rp.GatherWriterMetadata)
    r.call(rp.StartSnapshotSet)
    r.call(rp.AddToSnapshotSet, "vol")
    r.call(rp.PrepareForBackup)
    r.call(rp.DoSnapshotSet)
    r.close()
    host.until(lambda: not host.requester().call(rp.Query), "release")
    assert idle.names() == ["identify", "prepare-backup"]


@pytest.mark.vss(19)
def test_only_one_set_at_a_time(host: Any, backup: Any) -> None:
    host.start()
    host.volume("vol")
    first = backup([])
    second = host.requester()
    second.call(rp.InitializeForBackup)
    second.call(rp.SetContext, Context.FILE_SHARE_BACKUP)
    with pytest.raises(VssError) as caught:
        second.call(rp.StartSnapshotSet)
    assert caught.value.code == Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS
    first.requester.call(rp.AbortBackup)
    assert second.call(rp.StartSnapshotSet)


def test_volume_rules(host: Any) -> None:
    host.start()
    place = host.volume("vol")
    r = host.requester()

    def refused(code: Code, *call: Any) -> str:
        with pytest.raises(VssError) as caught:
            r.call(*call)
        assert caught.value.code == code, caught.value
        return caught.value.message

    new, store = host.image("new", ""), host.storage("new")
    refused(Code.E_INVALIDARG, rp.VolumeAdd, "../x", new, store)
    refused(Code.VSS_E_OBJECT_ALREADY_EXISTS, rp.VolumeAdd, "vol", new, store)
    refused(Code.VSS_E_OBJECT_ALREADY_EXISTS, rp.VolumeAdd, "twice", f"{host.base}/vol.img", store)
    refused(Code.VSS_E_OBJECT_NOT_FOUND, rp.VolumeAdd, "new", "/nowhere", store)
    assert "protected volume vol" in refused(Code.E_INVALIDARG, rp.VolumeAdd, "new", new, f"{place}/store")
    refused(Code.VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED, rp.VolumeAdd, "new", new, host.storage("vol"))
    with open(f"{place}/inner.img", "wb") as file:
        file.truncate(1 << 20)
    refused(Code.VSS_E_NESTED_VOLUME_LIMIT, rp.VolumeAdd, "inner", f"{place}/inner.img", store)
    with open(new, "ab") as file:
        file.write(b"x")
    assert "512" in refused(Code.VSS_E_VOLUME_NOT_SUPPORTED, rp.VolumeAdd, "new", new, store)
    os.truncate(new, 1 << 20)
    loop = subprocess.run(["losetup", "-f", "--show", new], capture_output=True, text=True, check=True).stdout.strip()
    try:
        assert loop in refused(Code.VSS_E_VOLUME_IN_USE, rp.VolumeAdd, "new", new, store)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
    os.mkdir(store)
    host.faults("new", start="this provider does not like its origin")
    assert "does not like" in refused(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, rp.VolumeAdd, "new", new, store)
    host.faults("new")
    assert r.call(rp.VolumeAdd, "new", new, store).state == "online"
    assert place in refused(Code.VSS_E_VOLUME_IN_USE, rp.VolumeDetach, "vol")
    refused(Code.VSS_E_VOLUME_IN_USE, rp.VolumeRemove, "vol")
    refused(Code.VSS_E_VOLUME_IN_USE, rp.VolumeRemove, "vol", True)
    subprocess.run(["umount", place], check=True)
    r.call(rp.VolumeDetach, "vol")
    r.call(rp.VolumeRemove, "vol")
    assert [info.name for info in r.call(rp.VolumeList)] == ["new"]


def test_a_volume_with_copies_is_not_removed_unasked(host: Any, backup: Any) -> None:
    host.start()
    place = host.volume("vol")
    backup(["vol"], context=Context.NAS_ROLLBACK).make()
    r = host.requester()
    with pytest.raises(VssError, match="is mounted at"):
        r.call(rp.VolumeRemove, "vol", True)
    assert len(r.call(rp.Query)) == 1, "a removal that cannot be costs nothing"
    subprocess.run(["umount", place], check=True)
    r.call(rp.VolumeDetach, "vol")
    with pytest.raises(VssError, match="1 shadow copy, which would be lost") as caught:
        r.call(rp.VolumeRemove, "vol")
    assert caught.value.code == Code.VSS_E_VOLUME_IN_USE
    assert len(r.call(rp.Query)) == 1
    r.call(rp.VolumeRemove, "vol", True)
    assert r.call(rp.Query) == []


def test_providers_are_listed_with_their_copies(host: Any, backup: Any) -> None:
    host.start()
    host.volume("vol")
    record = backup(["vol"], context=Context.NAS_ROLLBACK).make()
    (provider,) = [each for each in host.requester().call(rp.ListProviders) if each.type is ProviderType.SYSTEM]
    assert (provider.type, provider.copies) == (ProviderType.SYSTEM, 1)
    assert provider.capabilities & ProviderCapability.DIFFERENTIAL
    assert provider.provider_id == record.snapshots[0].provider_id
    assert len({provider.provider_id, provider.version_id}) == 2


@pytest.mark.vss(123)
@pytest.mark.parametrize("through_loop", [False, True])
def test_nested_volumes_are_refused(host: Any, backup: Any, through_loop: bool) -> None:
    host.start()
    outer = host.image("outer")
    place = str(host.base / "mnt" / "outer")
    os.makedirs(place)
    subprocess.run(["mount", "-o", "loop", outer, place], check=True)
    with open(f"{place}/inner.img", "wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["umount", place], check=True)
    r = host.requester()
    r.call(rp.VolumeAdd, "outer", outer, host.storage("outer"))
    device = r.call(rp.VolumeAttach, "outer").device
    host.loops.append(device)
    subprocess.run(["mount", device, place], check=True)
    inner = f"{place}/inner.img"
    if through_loop:
        done = subprocess.run(["losetup", "-f", "--show", inner], check=True, capture_output=True, text=True)
        inner = done.stdout.strip()
    try:
        with pytest.raises(VssError, match="lies on volume outer") as caught:
            r.call(rp.VolumeAdd, "inner", inner, host.storage("inner"))
        assert caught.value.code == Code.VSS_E_NESTED_VOLUME_LIMIT
        volumes = [
            VolumeFacts("inner", lies_on=[inner]),
            VolumeFacts("outer", devices=[device], lies_on=[outer]),
        ]
        with pytest.raises(VssError, match="set of one of them only"):
            check_nesting(volumes)
        check_nesting(volumes[1:])
    finally:
        if through_loop:
            subprocess.run(["losetup", "-d", inner], check=True)
