"""The client library against a coordinator that answers, refuses, hangs, breaks frames and dies."""

from __future__ import annotations

import inspect
import os
import socket
from typing import Any

import pytest

from shadowset.requester.administration import Administration
from shadowset.requester.asynchronous import AsyncOperation
from shadowset.requester.backup_components import BackupComponents, ComponentKey
from shadowset.requester.connection import Connection, ConnectionLost, ServiceUnavailable, call_name
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType, ComponentType, FileRestoreStatus, ObjectType, RestoreType, RollForward
from shadowset.vss.paths import Paths
from shadowset.vss.wire import FrameError

KEY = ComponentKey("11111111-0000-0000-0000-000000000001", "i", ComponentType.FILEGROUP, "databases", "orders")

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "initialize_for_restore": ("<xml/>",),
    "set_context": (0,),
    "set_backup_state": (True, False, BackupType.COPY),
    "set_restore_state": (RestoreType.BY_COPY,),
    "enable_writer_classes": (["w"],),
    "disable_writer_classes": (["w"],),
    "disable_writer_instances": (["i"],),
    "add_component": (KEY,),
    "set_backup_options": (KEY, "x"),
    "set_previous_backup_stamp": (KEY, "x"),
    "set_backup_succeeded": (KEY, True),
    "is_volume_supported": ("data",),
    "add_to_snapshot_set": ("data",),
    "get_snapshot_properties": ("id",),
    "delete_snapshots": ("id", ObjectType.SNAPSHOT),
    "expose_snapshot": ("id",),
    "unexpose_snapshot": ("id",),
    "expose_set": ("id", "/root"),
    "unexpose_set": ("id",),
    "attach_snapshot": ("id",),
    "detach_snapshot": ("id",),
    "set_selected_for_restore": (KEY,),
    "add_restore_subcomponent": (KEY, "p", "n"),
    "set_restore_options": (KEY, "x"),
    "set_additional_restores": (KEY, True),
    "set_selected_for_restore_ex": (KEY, "instance"),
    "add_new_target": (KEY, "/data", "*", False, "/new"),
    "set_ranges_file_path": (KEY, 0, "/ranges"),
    "set_authoritative_restore": (KEY, True),
    "set_restore_name": (KEY, "new"),
    "set_roll_forward": (KEY, RollForward.PARTIAL, "point"),
    "set_file_restore_status": (KEY, FileRestoreStatus.ALL),
    "add_alternative_location_mapping": (KEY, "/a", "*", False, "/b"),
}
LOCAL = {
    "close",
    "free_writer_metadata",
    "get_session_id",
    "get_writer_metadata",
    "get_writer_metadata_count",
    "get_writer_status",
    "get_writer_status_count",
}
CALLS = sorted(
    name
    for name, _ in inspect.getmembers(BackupComponents, inspect.isfunction)
    if not name.startswith("_") and name not in LOCAL
)


def make(calls: BackupComponents, name: str) -> Any:
    """Make one call to its end."""
    value = getattr(calls, name)(*ARGUMENTS.get(name, ()))
    return value.result() if isinstance(value, AsyncOperation) else value


def test_every_call_of_a_session_has_a_method() -> None:
    administrative = {
        rp.ServiceHello, rp.Cancel, rp.GetSet, rp.ListWriters, rp.SetWriterWindow, rp.ListProviders,
        rp.ListEvents, rp.VolumeAdd,
        rp.ImportSnapshot, rp.RegisterProvider, rp.UnregisterProvider,
        rp.VolumeAttach, rp.VolumeDetach, rp.VolumeResize, rp.VolumeHandOver, rp.VolumeRemove,
        rp.VolumeList, rp.QueryVolumesSupported,
        rp.StorageList, rp.StorageConfigure, rp.StorageMove, rp.QueryStorageMove, rp.CancelStorageMove,
        rp.KeepSnapshot, rp.RevertToSnapshot, rp.QueryRevertStatus,
        rp.QuerySnapshotDelta, rp.ListDeleted, rp.UndeleteSnapshot,
    }  # fmt: skip
    expected = {call_name(call).replace("-", "_") for call in rp.ToCoordinator.__args__ if call not in administrative}
    assert set(CALLS) == expected


@pytest.mark.parametrize("name", CALLS)
def test_a_coordinator_that_dies_in_a_call_is_one_clear_sentence(coordinator: Any, name: str) -> None:
    coordinator.die_on = name.replace("_", "-")
    with BackupComponents() as calls:
        with pytest.raises(ConnectionLost, match=f"closed the connection during {coordinator.die_on}") as caught:
            make(calls, name)
        assert "\n" not in str(caught.value) and "start again" in caught.value.message
        with pytest.raises(ConnectionLost):
            calls.query()
    assert coordinator.names()[-1] == coordinator.die_on, "nothing is sent after the connection is lost"


@pytest.mark.parametrize("name", CALLS)
def test_every_call_hands_on_the_coordinators_refusal(coordinator: Any, name: str) -> None:
    coordinator.fail_on[name.replace("_", "-")] = VssError(Code.VSS_E_BAD_STATE, "call something else first")
    with BackupComponents() as calls:
        with pytest.raises(VssError, match="call something else first") as caught:
            make(calls, name)
        assert caught.value.code == Code.VSS_E_BAD_STATE


def test_out_of_order_calls_are_refused_with_bad_state(coordinator: Any) -> None:
    for name in ("start_snapshot_set", "add_to_snapshot_set", "prepare_for_backup", "do_snapshot_set", "save_as_xml"):
        with BackupComponents() as calls:
            calls.initialize_for_backup()
            with pytest.raises(VssError) as caught:
                make(calls, name)
            assert caught.value.code == Code.VSS_E_BAD_STATE
    with BackupComponents() as calls:
        with pytest.raises(VssError) as caught:
            calls.get_writer_metadata_count()
        assert caught.value.code == Code.VSS_E_BAD_STATE
        with pytest.raises(VssError) as caught:
            calls.get_writer_status(0)
        assert caught.value.code == Code.VSS_E_BAD_STATE


def test_a_whole_backup_by_calls(coordinator: Any, data: Any) -> None:
    with BackupComponents() as calls:
        with pytest.raises(VssError, match="no session yet"):
            calls.get_session_id()
        assert calls.initialize_for_backup() == calls.get_session_id()
        calls.set_context(0)
        calls.set_backup_state(True, False, BackupType.COPY)
        assert calls.gather_writer_metadata().wait() == Code.VSS_S_ASYNC_FINISHED
        assert calls.get_writer_metadata_count() == 1
        metadata = calls.get_writer_metadata(0)
        calls.free_writer_metadata()
        for freed in (calls.get_writer_metadata_count, calls.free_writer_metadata):
            with pytest.raises(VssError) as caught:
                freed()
            assert caught.value.code == Code.VSS_E_BAD_STATE
        key = ComponentKey(metadata.writer_id, metadata.instance_id, ComponentType.FILEGROUP, "databases", "orders")
        calls.add_component(key)
        set_id = calls.start_snapshot_set()
        assert calls.is_volume_supported("data") and not calls.is_volume_supported("other")
        snapshot_id = calls.add_to_snapshot_set("data")
        calls.prepare_for_backup().result()
        record = calls.do_snapshot_set().result()
        assert record.set_id == set_id and record.snapshots[0].snapshot_id == snapshot_id
        calls.gather_writer_status().result()
        assert calls.get_writer_status_count() == 1 and calls.get_writer_status(0).name == "SQLite Writer"
        assert os.path.isdir(calls.expose_snapshot(snapshot_id) + "/db/orders")
        calls.set_backup_succeeded(key, True)
        calls.backup_complete().result()
        assert calls.get_document().writers[0].components[0].backup_succeeded
        assert "orders" in calls.save_as_xml()
    with pytest.raises(VssError):
        calls.get_writer_metadata(7)
    assert calls.get_session_id(), "no call to the coordinator"


def test_closing_deletes_auto_release_copies(coordinator: Any, data: Any, eventually: Any) -> None:
    calls = BackupComponents()
    calls.initialize_for_backup()
    calls.gather_writer_metadata().result()
    calls.start_snapshot_set()
    calls.add_to_snapshot_set("data")
    calls.do_snapshot_set().result()
    assert len(calls.query()) == 1
    calls.close()
    assert eventually(lambda: not coordinator.copies)


def test_an_exception_in_the_block_aborts_the_session(coordinator: Any) -> None:
    with pytest.raises(KeyError), BackupComponents() as calls:
        calls.initialize_for_backup()
        raise KeyError
    assert coordinator.names()[-1] == "abort-backup"


def test_an_asynchronous_call_is_pending_until_it_is_cancelled(coordinator: Any) -> None:
    coordinator.hang_on = "do-snapshot-set"
    notices: list[rp.Notice] = []
    with BackupComponents(on_notice=notices.append) as calls:
        operation = calls.do_snapshot_set()
        assert operation.query_status() == Code.VSS_S_ASYNC_PENDING
        assert operation.wait(0.05) == Code.VSS_S_ASYNC_PENDING
        assert calls.query() == [], "other calls go on meanwhile"
        operation.cancel()
        assert operation.wait() == Code.VSS_S_ASYNC_CANCELLED
        assert operation.query_status() == Code.VSS_S_ASYNC_CANCELLED
        with pytest.raises(VssError) as caught:
            operation.result()
        assert caught.value.code == Code.VSS_S_ASYNC_CANCELLED
        operation.cancel()
    assert [notice.text for notice in notices] == ["thinking"]


def test_a_failed_operation_fails_each_time_it_is_asked(coordinator: Any) -> None:
    coordinator.fail_on["do-snapshot-set"] = VssError(Code.VSS_E_HOLD_WRITES_TIMEOUT, "too slow")
    with BackupComponents() as calls:
        operation = calls.do_snapshot_set()
        for _ in range(2):
            with pytest.raises(VssError) as caught:
                operation.wait()
            assert caught.value.code == Code.VSS_E_HOLD_WRITES_TIMEOUT


def test_garbage_ends_the_connection_with_a_sentence(coordinator: Any) -> None:
    coordinator.garbage_on = "query"
    with BackupComponents() as calls, pytest.raises(ConnectionLost, match="broke the protocol"):
        calls.query()


def test_a_result_of_another_shape_is_told(coordinator: Any) -> None:
    coordinator.do_query = lambda session, call: [{"snapshot_id": 7}]
    with BackupComponents() as calls, pytest.raises(FrameError, match="answered query with something else"):
        calls.query()


def test_no_coordinator(short_dir: str) -> None:
    with pytest.raises(ServiceUnavailable, match=r"no coordinator runs .* 'shadowset serve'"):
        BackupComponents(Paths(runtime=short_dir))
    with pytest.raises(ServiceUnavailable, match="cannot be reached"):
        Connection("/tmp/" + "x" * 200)


def test_a_coordinator_that_never_answers_the_greeting(short_dir: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short_dir}/requester.sock")
        listener.listen()
        with pytest.raises(ServiceUnavailable, match=r"did not answer within 0\.1 s"):
            BackupComponents(Paths(runtime=short_dir), timeout=0.1)


def test_administration(coordinator: Any, data: Any) -> None:
    with Administration() as administration:
        assert administration.hello().volumes == 1
        assert administration.volume_add("wal", "/dev/x", "/storage").name == "wal"
        assert [volume.name for volume in administration.volume_list()] == ["data", "wal"]
        assert administration.volume_attach("data", "fuse").via == "fuse"
        with pytest.raises(VssError) as caught:
            administration.volume_detach("data")
        assert caught.value.code == Code.VSS_E_VOLUME_IN_USE
        assert administration.volume_resize("data").name == "data"
        assert administration.volume_hand_over("data").stall_ms == 7.25
        administration.volume_remove("wal", force=True)
        assert administration.list_writers()[0].pid == 1234
        assert administration.list_events(0) == []
        with pytest.raises(VssError) as caught:
            administration.get_set("nothing")
        assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND
