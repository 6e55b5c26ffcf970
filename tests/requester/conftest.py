"""A coordinator that is not one: it speaks the requester protocol, keeps its order rules, and copies directories.

Its volumes are directories; a shadow copy is a recursive copy of one, made at do-snapshot-set. It can be told to refuse
a call, to die in one, to answer with garbage or to leave one unanswered until it is cancelled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester import cli
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError, code_name
from shadowset.vss.components import BackupComponentsDocument, Component, Failure, WriterComponents
from shadowset.vss.documents import components_from_xml, components_to_xml
from shadowset.vss.enums import (
    ComponentType,
    Context,
    FileRestoreStatus,
    ObjectType,
    ProviderType,
    SnapshotState,
    WriterState,
)
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata
from shadowset.vss.paths import Paths
from shadowset.vss.wire import FrameDecoder, encode

Coordinator = Any


class Session:
    """What one connection has done so far."""

    def __init__(self) -> None:
        self.kind = ""
        self.done: set[str] = set()
        self.document = BackupComponentsDocument()
        self.set_id = ""
        self.volumes: dict[str, str] = {}
        self.context = 0
        self.aborted = False


class FakeCoordinator:
    """See the module. ``calls`` is every call received, in order."""

    def __init__(self, directory: str) -> None:
        self.paths = Paths(runtime=f"{directory}/run", state=f"{directory}/state")
        os.makedirs(self.paths.runtime)
        self.directory = directory
        self.volumes: dict[str, str] = {}
        self.writers: list[WriterMetadata] = []
        self.status: dict[str, rp.WriterStatus] = {}
        self.copies: dict[str, rp.SnapshotProperties] = {}
        self.supported: list[rp.SupportedVolume] = []
        self.records: dict[str, rp.SetRecord] = {}
        self.events: list[rp.EventRecord] = []
        self.calls: list[rp.Call] = []
        self.sessions: list[Session] = []
        self.grace_ms = 0
        self.die_on = ""
        self.garbage_on = ""
        self.hang_on = ""
        self.fail_on: dict[str, VssError] = {}
        self.on_call: dict[str, Callable[[Session], None]] = {}
        self.component_failures: dict[str, Failure] = {}
        self.kept_sets = True
        self.silent: set[str] = set()
        self._number = 0
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.paths.requester_socket)
        self._listener.listen()
        self._start(self._accept)

    # ---- the socket ----

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        decoder: FrameDecoder[Any] = FrameDecoder(rp.ToCoordinator)
        session = Session()
        self.sessions.append(session)
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                for call in decoder.feed(data):
                    if not self._answer(connection, session, call):
                        connection.close()
                        return
        session.done.add("closed")
        self._release(session)

    def _answer(self, connection: socket.socket, session: Session, call: Any) -> bool:
        name = str(call.__struct_config__.tag)
        self.calls.append(call)
        if name == self.die_on:
            return False
        if name == self.garbage_on:
            connection.sendall(b"\xff\xff\xff\xff garbage")
            return True
        if name == self.hang_on:
            connection.sendall(encode(rp.Notice(seq=call.seq, text="thinking", done=1, total=2)))
            return True
        try:
            value = self._do(name, session, call)
            answer: Any = rp.Result(seq=call.seq, value=value)
        except VssError as error:
            answer = rp.CallFailure(call.seq, error.code, code_name(error.code), error.message)
        connection.sendall(encode(answer))
        if name == "cancel":
            connection.sendall(
                encode(rp.CallFailure(call.target, Code.VSS_S_ASYNC_CANCELLED, "VSS_S_ASYNC_CANCELLED", "cancelled"))
            )
        return True

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def names(self) -> list[str]:
        """The names of the calls received."""
        return [str(call.__struct_config__.tag) for call in self.calls]

    # ---- the calls ----

    def _do(self, name: str, session: Session, call: Any) -> Any:
        if name in self.on_call:
            self.on_call[name](session)
        if name in self.fail_on:
            raise self.fail_on[name]
        handler = getattr(self, "do_" + name.replace("-", "_"), None)
        value = handler(session, call) if handler else None
        session.done.add(name)
        return value

    @staticmethod
    def _need(session: Session, *names: str) -> None:
        for name in names:
            if name not in session.done:
                raise VssError(Code.VSS_E_BAD_STATE, f"call {name} first")

    def do_hello(self, session: Session, call: rp.ServiceHello) -> rp.ServiceInfo:
        counts = len(self.sessions), len(self.writers), len(self.volumes)
        return rp.ServiceInfo("0.1.0", 1, os.getpid(), *counts, self.grace_ms, os.getpid())

    def do_list_deleted(self, session: Session, call: rp.ListDeleted) -> list[rp.DeletedCopy]:
        return []

    def do_storage_list(self, session: Session, call: Any) -> list[rp.StorageInfo]:
        return [rp.StorageInfo(name, "/storage", 0, 1 << 30, 0, "delete-oldest", 80, 0) for name in self.volumes]

    def do_initialize_for_backup(self, session: Session, call: Any) -> str:
        if session.kind:
            raise VssError(Code.VSS_E_BAD_STATE, "this session is initialized already; open a new one")
        session.kind = "backup"
        return str(uuid.uuid4())

    def do_initialize_for_restore(self, session: Session, call: rp.InitializeForRestore) -> str:
        session.kind = "restore"
        session.document = components_from_xml(call.document)
        return str(uuid.uuid4())

    def do_set_context(self, session: Session, call: rp.SetContext) -> None:
        self._need(session, "initialize-for-backup")
        session.context = call.context

    def do_set_backup_state(self, session: Session, call: rp.SetBackupState) -> None:
        self._need(session, "initialize-for-backup")
        session.document.backup_type = call.backup_type
        session.document.select_components = call.select_components

    def do_gather_writer_metadata(self, session: Session, call: Any) -> list[WriterMetadata]:
        if not session.kind:
            raise VssError(Code.VSS_E_BAD_STATE, "initialize first")
        return [writer for writer in self.writers if writer.instance_id not in self.silent]

    def do_add_component(self, session: Session, call: rp.AddComponent) -> None:
        self._need(session, "gather-writer-metadata")
        document = session.document
        writer = document.writer(call.writer_id, call.instance_id)
        if writer is None:
            writer = WriterComponents(call.writer_id, call.instance_id)
            document.writers.append(writer)
        writer.components.append(Component(call.type, call.logical_path, call.name))

    def do_start_snapshot_set(self, session: Session, call: Any) -> str:
        if not session.context & Context.FILE_SHARE_BACKUP:
            self._need(session, "gather-writer-metadata")
        session.set_id = str(uuid.uuid4())
        session.document.snapshot_set_id = session.set_id
        return session.set_id

    def do_is_volume_supported(self, session: Session, call: rp.IsVolumeSupported) -> bool:
        return call.volume in self.volumes

    def do_add_to_snapshot_set(self, session: Session, call: rp.AddToSnapshotSet) -> str:
        self._need(session, "start-snapshot-set")
        if call.volume not in self.volumes:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no volume {call.volume!r}")
        snapshot_id = str(uuid.uuid4())
        session.volumes[call.volume] = snapshot_id
        return snapshot_id

    def do_prepare_for_backup(self, session: Session, call: Any) -> None:
        self._need(session, "set-backup-state", "start-snapshot-set")

    def do_gather_writer_status(self, session: Session, call: Any) -> list[rp.WriterStatus]:
        return [one for one in self.do_list_writers(session, call) if one.instance_id not in self.silent]

    def do_do_snapshot_set(self, session: Session, call: Any) -> rp.SetRecord:
        self._need(session, "start-snapshot-set")
        for volume, snapshot_id in session.volumes.items():
            self._number += 1
            self.copies[snapshot_id] = self._copy(session, volume, snapshot_id)
            subprocess.run(
                ["cp", "-a", "--sparse=always", self.volumes[volume], f"{self.directory}/copy-{snapshot_id}"],
                check=True,
            )
        record = rp.SetRecord(
            set_id=session.set_id,
            session_id="session",
            created_ns=1_795_255_200_123_456_000,
            context=session.context,
            status=SnapshotState.CREATED,
            skew_ms=0.25,
            snapshots=[self.copies[snapshot_id] for snapshot_id in session.volumes.values()],
            volumes=[rp.VolumeTimes(volume, 0.5, 1.25, 3, 9.75, 0.1) for volume in session.volumes],
            timeline=[
                rp.TimelineEntry("SQLite Writer", "prepare-snapshot", 0.0, 12.5),
                rp.TimelineEntry("SQLite Writer", "freeze", 12.5, 20.0),
                rp.TimelineEntry("data", "hold", 20.0, 21.5),
                rp.TimelineEntry("SQLite Writer", "thaw", 21.5, 25.0),
            ],
            writers=self.do_gather_writer_status(session, call),
        )
        self.records[session.set_id] = record
        for writer in session.document.writers:
            for component in writer.components:
                if component.full_path in self.component_failures:
                    component.failure = self.component_failures[component.full_path]
        return record

    def _copy(self, session: Session, volume: str, snapshot_id: str) -> rp.SnapshotProperties:
        return rp.SnapshotProperties(
            snapshot_id=snapshot_id,
            snapshot_set_id=session.set_id,
            snapshots_count=len(session.volumes),
            device_object=self.paths.device(self._number),
            original_volume=volume,
            originating_machine="host",
            service_machine="host",
            exposed_name="",
            exposed_path="",
            provider_id="provider",
            attributes=session.context | 0x20000,
            created_ns=1_795_255_200_123_456_000 + self._number,
            status=SnapshotState.CREATED,
            size=64 << 20,
            number=self._number,
            device_number=self._number,
            mount_points=[self.volumes[volume]],
        )

    def do_get_snapshot_properties(self, session: Session, call: rp.GetSnapshotProperties) -> rp.SnapshotProperties:
        return self._known(call.snapshot_id)

    def _known(self, snapshot_id: str) -> rp.SnapshotProperties:
        if snapshot_id not in self.copies:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy {snapshot_id!r}")
        return self.copies[snapshot_id]

    def _component(self, session: Session, call: rp.ComponentCall) -> Component:
        writer = session.document.writer(call.writer_id, call.instance_id)
        component = writer.component(call.logical_path, call.name) if writer else None
        if component is None:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no component {call.name!r}")
        return component

    def do_set_backup_succeeded(self, session: Session, call: rp.SetBackupSucceeded) -> None:
        self._need(session, "do-snapshot-set")
        self._component(session, call).backup_succeeded = call.succeeded

    def do_backup_complete(self, session: Session, call: Any) -> None:
        self._need(session, "do-snapshot-set")

    def do_abort_backup(self, session: Session, call: Any) -> None:
        session.aborted = True

    def do_get_document(self, session: Session, call: Any) -> BackupComponentsDocument:
        if session.kind == "backup":
            self._need(session, "prepare-for-backup")
        return session.document

    def do_save_as_xml(self, session: Session, call: Any) -> str:
        self._need(session, "prepare-for-backup")
        return components_to_xml(session.document)

    def do_set_selected_for_restore(self, session: Session, call: rp.SetSelectedForRestore) -> None:
        self._component(session, call).selected_for_restore = call.selected

    def do_set_file_restore_status(self, session: Session, call: rp.SetFileRestoreStatus) -> None:
        self._need(session, "pre-restore")
        self._component(session, call).file_restore_status = call.status

    def do_pre_restore(self, session: Session, call: Any) -> None:
        if session.kind != "restore":
            raise VssError(Code.VSS_E_BAD_STATE, "this is no restore")

    def do_post_restore(self, session: Session, call: Any) -> None:
        self._need(session, "pre-restore")

    def do_query(self, session: Session, call: rp.Query) -> list[rp.SnapshotProperties]:
        return [
            copy
            for copy in self.copies.values()
            if call.snapshot_id in ("", copy.snapshot_id)
            and call.set_id in ("", copy.snapshot_set_id)
            and call.volume in ("", copy.original_volume)
        ]

    def do_delete_snapshots(self, session: Session, call: rp.DeleteSnapshots) -> rp.DeleteResult:
        if call.object_type == ObjectType.SNAPSHOT_SET:
            gone = [one for one, copy in self.copies.items() if copy.snapshot_set_id == call.object_id]
        else:
            gone = [self._known(call.object_id).snapshot_id]
        if any(self.copies[one].exposed_name for one in gone) and not call.force:
            return rp.DeleteResult(0, gone[0], "it is mounted; unmount it or use force")
        for one in gone:
            del self.copies[one]
        return rp.DeleteResult(len(gone))

    def do_expose_snapshot(self, session: Session, call: rp.ExposeSnapshot) -> str:
        copy = self._known(call.snapshot_id)
        copy.exposed_name = call.path or f"{self.directory}/copy-{call.snapshot_id}"
        return copy.exposed_name

    def do_query_volumes_supported(self, session: Session, call: rp.QueryVolumesSupported) -> list[rp.SupportedVolume]:
        return self.supported

    def do_expose_set(self, session: Session, call: rp.ExposeSet) -> dict[str, str]:
        found = (copy for copy in self.copies.values() if copy.snapshot_set_id == call.set_id)
        return {f"{call.root}{path}": copy.snapshot_id for copy in found for path in copy.mount_points}

    def do_unexpose_set(self, session: Session, call: rp.UnexposeSet) -> None:
        return None

    def do_attach_snapshot(self, session: Session, call: rp.AttachSnapshot) -> str:
        return f"/dev/{call.via}-{self._known(call.snapshot_id).device_number}"

    def do_detach_snapshot(self, session: Session, call: rp.DetachSnapshot) -> None:
        self._known(call.snapshot_id)

    def do_unexpose_snapshot(self, session: Session, call: rp.UnexposeSnapshot) -> None:
        self._known(call.snapshot_id).exposed_name = ""

    def do_get_set(self, session: Session, call: rp.GetSet) -> rp.SetRecord:
        if call.set_id not in self.records:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy set {call.set_id!r}")
        return self.records[call.set_id]

    def do_list_writers(self, session: Session, call: Any) -> list[rp.WriterStatus]:
        return [
            self.status.get(
                writer.instance_id,
                rp.WriterStatus(writer.writer_id, writer.instance_id, writer.name, WriterState.STABLE, pid=1234),
            )
            for writer in self.writers
        ]

    def do_list_providers(self, session: Session, call: Any) -> list[rp.ProviderInfo]:
        return [
            rp.ProviderInfo("p-1", "Fake provider", ProviderType.SOFTWARE, "2", "v-1", "c-1", 0x102, len(self.copies))
        ]

    def do_list_events(self, session: Session, call: rp.ListEvents) -> list[rp.EventRecord]:
        return [event for event in self.events if event.id > call.after]

    def _info(self, name: str) -> rp.VolumeInfo:
        place = self.volumes[name]
        return rp.VolumeInfo(
            name=name,
            origin=f"/dev/{name}",
            storage=f"/storage/{name}",
            size=64 << 20,
            chunk_size=16384,
            state="online",
            device=f"/dev/shadowset/{name}" if place else "",
            via="fuse" if place else "",
            mount_points=[place] if place else [],
            copies=sum(1 for copy in self.copies.values() if copy.original_volume == name),
            storage_used=4096,
            nbd_socket=self.paths.nbd_socket(name),
            pid=1,
        )

    def do_volume_list(self, session: Session, call: Any) -> list[rp.VolumeInfo]:
        return [self._info(name) for name in self.volumes]

    def do_volume_add(self, session: Session, call: rp.VolumeAdd) -> rp.VolumeInfo:
        self.volumes[call.name] = ""
        return self._info(call.name)

    def do_volume_attach(self, session: Session, call: rp.VolumeAttach) -> rp.VolumeInfo:
        return self._info(call.name)

    def do_volume_detach(self, session: Session, call: rp.VolumeDetach) -> rp.VolumeInfo:
        raise VssError(Code.VSS_E_VOLUME_IN_USE, f"volume {call.name} is mounted on /srv; unmount it first")

    def do_volume_resize(self, session: Session, call: rp.VolumeResize) -> rp.VolumeInfo:
        return self._info(call.name)

    def do_volume_hand_over(self, session: Session, call: rp.VolumeHandOver) -> rp.VolumeHandover:
        return rp.VolumeHandover(call.name, 4321, "2.0", "1.0", 7.25)

    def do_volume_remove(self, session: Session, call: rp.VolumeRemove) -> None:
        self.volumes.pop(call.name)

    def _release(self, session: Session) -> None:
        for volume, snapshot_id in session.volumes.items():
            if volume in self.volumes and not session.context & 0x8:
                self.copies.pop(snapshot_id, None)

    # ---- what tests ask ----

    def last_document(self) -> BackupComponentsDocument:
        """The document of the last session that had one."""
        return next(session.document for session in reversed(self.sessions) if session.kind)

    def restore_status(self) -> dict[str, FileRestoreStatus]:
        """How the requester said that each component went."""
        document = self.last_document()
        return {one.full_path: one.file_restore_status for writer in document.writers for one in writer.components}


@pytest.fixture
def short_dir() -> Iterator[str]:
    """A directory with a path short enough for sockets."""
    directory = tempfile.mkdtemp(prefix="ss-", dir="/tmp")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def coordinator(short_dir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCoordinator]:
    """A fake coordinator that the environment points to."""
    fake = FakeCoordinator(short_dir)
    monkeypatch.setenv("SHADOWSET_RUNTIME_DIR", fake.paths.runtime)
    monkeypatch.setenv("SHADOWSET_STATE_DIR", fake.paths.state)
    yield fake
    fake.close()


@pytest.fixture
def data(coordinator: FakeCoordinator) -> Path:
    """The mount point of a protected volume ``data``, with two data bases of one writer in it."""
    place = Path(coordinator.directory) / "data"
    for name in ("orders", "stock"):
        (place / "db" / name).mkdir(parents=True)
        (place / "db" / name / f"{name}.db").write_bytes(name.encode() * 5000)
        (place / "db" / name / f"{name}.db-wal").write_bytes(b"wal of " + name.encode())
    coordinator.volumes["data"] = str(place)
    coordinator.writers.append(
        WriterMetadata(
            writer_id="11111111-0000-0000-0000-000000000001",
            instance_id="22222222-0000-0000-0000-000000000002",
            name="SQLite Writer",
            components=tuple(
                ComponentInfo(
                    ComponentType.FILEGROUP,
                    name,
                    "databases",
                    files=(FileSet(str(place / "db" / name), "*", recursive=True),),
                )
                for name in ("orders", "stock")
            ),
        )
    )
    return place


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def eventually() -> Callable[..., bool]:
    """``wait_until`` for tests."""
    return wait_until


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process; returns status, standard output and standard error."""

    def running(*arguments: str) -> tuple[int, str, str]:
        try:
            status = cli.main(arguments)
        except SystemExit as error:
            status = int(error.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return running
