"""The requester's object, in the shape of IVssBackupComponents: one per backup or restore, never used again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

from shadowset.requester.asynchronous import AsyncOperation
from shadowset.requester.connection import Connection, ConnectionLost, NoticeHandler
from shadowset.vss import requester_protocol as protocol
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.enums import BackupType, ComponentType, FileRestoreStatus, ObjectType, RestoreType, RollForward
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.paths import Paths

ABORT_SECONDS = 10.0


class ComponentKey(NamedTuple):
    """A component's identity: the five arguments with which VSS's calls name one."""

    writer_id: str
    instance_id: str
    type: ComponentType
    logical_path: str
    name: str


class BackupComponents:
    """A session with the coordinator.

    Calls out of order are refused by the coordinator with VSS_E_BAD_STATE. As a context manager it closes at the end,
    and gives the session up first when an exception leaves the block; auto-release shadow copies go either way.
    Errors of every call: VssError; ConnectionLost when the coordinator went away.
    """

    def __init__(
        self,
        paths: Paths | None = None,
        client: str = "",
        timeout: float = 10.0,
        on_notice: NoticeHandler | None = None,
    ) -> None:
        paths = paths or Paths.from_environment(os.environ)
        self.connection = Connection(paths.requester_socket, client, timeout, on_notice)
        self._session_id = ""
        self._metadata: list[WriterMetadata] | None = None
        self._status: list[protocol.WriterStatus] | None = None

    def __enter__(self) -> BackupComponents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None and not isinstance(error, ConnectionLost) and not self.connection.closed:
                self.connection.call(protocol.AbortBackup, timeout=ABORT_SECONDS)
        except VssError:
            pass  # the first error is the one to tell; closing aborts just as well
        finally:
            self.close()

    def close(self) -> None:
        """Release the object: the coordinator aborts what is unfinished and deletes auto-release copies."""
        self.connection.close()

    # ---- the session ----

    def initialize_for_backup(self) -> str:
        """Begin a backup; returns the session id."""
        self._session_id = str(self.connection.call(protocol.InitializeForBackup))
        return self._session_id

    def initialize_for_restore(self, document: str) -> str:
        """Begin a restore from a saved backup components document (XML); returns the session id."""
        self._session_id = str(self.connection.call(protocol.InitializeForRestore, document=document))
        return self._session_id

    def get_session_id(self) -> str:
        """The id of this session, by which writers and records know it. After initialize_for_backup or _restore."""
        if not self._session_id:
            raise VssError(Code.VSS_E_BAD_STATE, "no session yet; call initialize_for_backup or _restore first")
        return self._session_id

    def set_context(self, context: int) -> None:
        """Choose a Context, with Attribute modifiers ORed in. Once, before start_snapshot_set."""
        self.connection.call(protocol.SetContext, context=int(context))

    def set_backup_state(
        self,
        select_components: bool,
        bootable_system_state: bool,
        backup_type: BackupType,
        partial_files: bool = False,
    ) -> None:
        """Say what kind of backup this is. Before prepare_for_backup."""
        self.connection.call(
            protocol.SetBackupState,
            select_components=select_components,
            bootable_system_state=bootable_system_state,
            backup_type=backup_type,
            partial_files=partial_files,
        )

    def set_restore_state(self, restore_type: RestoreType) -> None:
        """Say what kind of restore this is. Before pre_restore."""
        self.connection.call(protocol.SetRestoreState, restore_type=restore_type)

    def abort_backup(self) -> None:
        """Give the backup up; harmless after do_snapshot_set has returned."""
        self.connection.call(protocol.AbortBackup)

    # ---- writers ----

    def enable_writer_classes(self, writer_ids: list[str]) -> None:
        """Let only these writer classes take part. Before gather_writer_metadata."""
        self.connection.call(protocol.EnableWriterClasses, writer_ids=writer_ids)

    def disable_writer_classes(self, writer_ids: list[str]) -> None:
        """Leave these writer classes out. Before gather_writer_metadata."""
        self.connection.call(protocol.DisableWriterClasses, writer_ids=writer_ids)

    def disable_writer_instances(self, instance_ids: list[str]) -> None:
        """Leave these writer instances out. Before gather_writer_metadata."""
        self.connection.call(protocol.DisableWriterInstances, instance_ids=instance_ids)

    def gather_writer_metadata(self) -> AsyncOperation[list[WriterMetadata]]:
        """Ask every writer to describe itself. Once per object."""

        def keep(metadata: list[WriterMetadata]) -> None:
            self._metadata = metadata

        return AsyncOperation(self.connection, protocol.GatherWriterMetadata, keep)

    def get_writer_metadata_count(self) -> int:
        """How many writers described themselves. After gather_writer_metadata has finished."""
        return len(self._gathered())

    def get_writer_metadata(self, index: int) -> WriterMetadata:
        """The document of one writer, counted from 0. Errors: VSS_E_OBJECT_NOT_FOUND past the last."""
        gathered = self._gathered()
        if not 0 <= index < len(gathered):
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no writer {index}: {len(gathered)} were gathered")
        return gathered[index]

    def free_writer_metadata(self) -> None:
        """Let go of the gathered documents; the session itself goes on. After gather_writer_metadata has finished."""
        self._gathered()
        self._metadata = None

    def _gathered(self) -> list[WriterMetadata]:
        if self._metadata is None:
            raise VssError(
                Code.VSS_E_BAD_STATE, "no writer metadata; let gather_writer_metadata finish first, and free it last"
            )
        return self._metadata

    def gather_writer_status(self) -> AsyncOperation[list[protocol.WriterStatus]]:
        """Ask how the writers stand. After prepare_for_backup, do_snapshot_set and backup_complete."""

        def keep(status: list[protocol.WriterStatus]) -> None:
            self._status = status

        return AsyncOperation(self.connection, protocol.GatherWriterStatus, keep)

    def get_writer_status_count(self) -> int:
        """How many writers the last gather_writer_status told of."""
        return len(self._statuses())

    def get_writer_status(self, index: int) -> protocol.WriterStatus:
        """How one writer stood at the last gather_writer_status, counted from 0."""
        statuses = self._statuses()
        if not 0 <= index < len(statuses):
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no writer {index}: {len(statuses)} were asked")
        return statuses[index]

    def _statuses(self) -> list[protocol.WriterStatus]:
        if self._status is None:
            raise VssError(Code.VSS_E_BAD_STATE, "no writer status yet; let gather_writer_status finish first")
        return self._status

    # ---- components ----

    def add_component(self, component: ComponentKey) -> None:
        """Include a component explicitly. After gather_writer_metadata, before start_snapshot_set."""
        self.connection.call(protocol.AddComponent, **component._asdict())

    def set_backup_options(self, component: ComponentKey, options: str) -> None:
        """Hand a component's writer its options. Before prepare_for_backup."""
        self.connection.call(protocol.SetBackupOptions, **component._asdict(), options=options)

    def set_previous_backup_stamp(self, component: ComponentKey, stamp: str) -> None:
        """Hand a component's writer the stamp of its earlier backup. Before prepare_for_backup or pre_restore."""
        self.connection.call(protocol.SetPreviousBackupStamp, **component._asdict(), stamp=stamp)

    def set_backup_succeeded(self, component: ComponentKey, succeeded: bool) -> None:
        """Say how copying a component's files went. After do_snapshot_set, before backup_complete."""
        self.connection.call(protocol.SetBackupSucceeded, **component._asdict(), succeeded=succeeded)

    # ---- the shadow copy set ----

    def start_snapshot_set(self, wait: float = 0.0, volumes: Sequence[str] = ()) -> str:
        """Begin a shadow copy set; returns its id. ``wait`` up to so many seconds for the turn.

        A set whose ``volumes`` are named here has to wait only for sets that share a volume or a writer with it, and
        may hold no others. Errors: VSS_E_SNAPSHOT_SET_IN_PROGRESS.
        """
        call = protocol.StartSnapshotSet
        return str(self.connection.call(call, wait_ms=int(wait * 1000), volumes=list(volumes)))

    def is_volume_supported(self, volume: str, provider_id: str = "") -> bool:
        """Whether shadow copies can be made of a volume, given by name, device or a path on it."""
        return bool(self.connection.call(protocol.IsVolumeSupported, volume=volume, provider_id=provider_id))

    def add_to_snapshot_set(self, volume: str, provider_id: str = "") -> str:
        """Take a volume into the set, given by name, device or a path on it; returns the shadow copy's id."""
        return str(self.connection.call(protocol.AddToSnapshotSet, volume=volume, provider_id=provider_id))

    def prepare_for_backup(self) -> AsyncOperation[None]:
        """Tell the writers that a backup is coming. After set_backup_state and start_snapshot_set."""
        return AsyncOperation(self.connection, protocol.PrepareForBackup)

    def do_snapshot_set(self) -> AsyncOperation[protocol.SetRecord]:
        """Make the set: all volumes cut at one instant, or none."""
        return AsyncOperation(self.connection, protocol.DoSnapshotSet)

    def get_snapshot_properties(self, snapshot_id: str) -> protocol.SnapshotProperties:
        """What is known of one shadow copy."""
        properties = self.connection.call(protocol.GetSnapshotProperties, snapshot_id=snapshot_id)
        assert isinstance(properties, protocol.SnapshotProperties)
        return properties

    def backup_complete(self) -> AsyncOperation[None]:
        """Tell the writers that the backup is over, and which components succeeded."""
        return AsyncOperation(self.connection, protocol.BackupComplete)

    # ---- the documents ----

    def save_as_xml(self) -> str:
        """The backup components document as XML. Never before prepare_for_backup."""
        return str(self.connection.call(protocol.SaveAsXml))

    def get_document(self) -> BackupComponentsDocument:
        """The backup components document as a value, with what the writers left in it."""
        document = self.connection.call(protocol.GetDocument)
        assert isinstance(document, BackupComponentsDocument)
        return document

    # ---- shadow copies that exist ----

    def query(self, snapshot_id: str = "", set_id: str = "", volume: str = "") -> list[protocol.SnapshotProperties]:
        """The shadow copies that match; empty filters match all."""
        found: list[protocol.SnapshotProperties] = self.connection.call(
            protocol.Query, snapshot_id=snapshot_id, set_id=set_id, volume=volume
        )
        return found

    def delete_snapshots(
        self, object_id: str, object_type: ObjectType = ObjectType.SNAPSHOT, force: bool = False
    ) -> protocol.DeleteResult:
        """Delete one copy or a whole set; ``force`` also where it is mounted."""
        result = self.connection.call(
            protocol.DeleteSnapshots, object_id=object_id, object_type=object_type, force=force
        )
        assert isinstance(result, protocol.DeleteResult)
        return result

    def expose_snapshot(self, snapshot_id: str, path: str = "") -> str:
        """Mount a copy read-only on the empty directory ``path`` or a place of the coordinator's; returns it."""
        return str(self.connection.call(protocol.ExposeSnapshot, snapshot_id=snapshot_id, path=path))

    def unexpose_snapshot(self, snapshot_id: str) -> None:
        """Unmount a copy."""
        self.connection.call(protocol.UnexposeSnapshot, snapshot_id=snapshot_id)

    def expose_set(self, set_id: str, root: str) -> dict[str, str]:
        """Mount all copies of a set below the empty directory ``root``, as their volumes were; which copy is where."""
        found: dict[str, str] = self.connection.call(protocol.ExposeSet, set_id=set_id, root=root)
        return found

    def unexpose_set(self, where: str) -> None:
        """Unmount all of that; ``where`` is the set or the directory."""
        self.connection.call(protocol.UnexposeSet, where=where)

    def attach_snapshot(self, snapshot_id: str, via: str = "auto") -> str:
        """Make a read-only block device of a copy, over ``nbd`` or ``loop``; returns it."""
        return str(self.connection.call(protocol.AttachSnapshot, snapshot_id=snapshot_id, via=via))

    def detach_snapshot(self, snapshot_id: str) -> None:
        """Take that block device away."""
        self.connection.call(protocol.DetachSnapshot, snapshot_id=snapshot_id)

    # ---- restore ----

    def set_selected_for_restore(
        self,
        component: ComponentKey,
        selected: bool = True,
    ) -> None:
        """Choose a component for restore. The writer must run, else VSS_E_OBJECT_NOT_FOUND. Before pre_restore."""
        self.connection.call(protocol.SetSelectedForRestore, **component._asdict(), selected=selected)

    def set_selected_for_restore_ex(
        self,
        component: ComponentKey,
        selected_instance: str,
        selected: bool = True,
    ) -> None:
        """Choose a component for restore by another running instance of its writer's class. Before pre_restore."""
        self.connection.call(
            protocol.SetSelectedForRestoreEx,
            **component._asdict(),
            selected=selected,
            selected_instance=selected_instance,
        )

    def add_new_target(
        self, component: ComponentKey, path: str, filespec: str, recursive: bool, destination: str
    ) -> None:
        """Say that the files of one file set are to be restored elsewhere. Before pre_restore."""
        self.connection.call(
            protocol.AddNewTarget,
            **component._asdict(),
            path=path,
            filespec=filespec,
            recursive=recursive,
            destination=destination,
        )

    def set_ranges_file_path(self, component: ComponentKey, partial_file: int, ranges_file: str) -> None:
        """Say where the ranges file of a partial file, counted from 0, lies now. Before pre_restore."""
        self.connection.call(
            protocol.SetRangesFilePath, **component._asdict(), partial_file=partial_file, ranges_file=ranges_file
        )

    def set_authoritative_restore(self, component: ComponentKey, authoritative: bool) -> None:
        """Say that the restored contents are to win over those of other replicas. Before pre_restore."""
        self.connection.call(protocol.SetAuthoritativeRestore, **component._asdict(), authoritative=authoritative)

    def set_restore_name(self, component: ComponentKey, restore_name: str) -> None:
        """Give the name that a component is to have after the restore. Before pre_restore."""
        self.connection.call(protocol.SetRestoreName, **component._asdict(), restore_name=restore_name)

    def set_roll_forward(self, component: ComponentKey, roll_forward: RollForward, point: str = "") -> None:
        """Say how far to roll a component forward; a point, in its writer's words, goes with PARTIAL. Before
        pre_restore."""
        self.connection.call(protocol.SetRollForward, **component._asdict(), roll_forward=roll_forward, point=point)

    def add_restore_subcomponent(
        self,
        component: ComponentKey,
        sub_logical_path: str,
        sub_name: str,
    ) -> None:
        """Restore one member of a selected component set. Before pre_restore."""
        self.connection.call(
            protocol.AddRestoreSubcomponent, **component._asdict(), sub_logical_path=sub_logical_path, sub_name=sub_name
        )

    def set_restore_options(self, component: ComponentKey, options: str) -> None:
        """Hand a component's writer its restore options. Once per component, before pre_restore."""
        self.connection.call(protocol.SetRestoreOptions, **component._asdict(), options=options)

    def set_additional_restores(self, component: ComponentKey, additional: bool) -> None:
        """Say that more restores of a component will follow. Before pre_restore."""
        self.connection.call(protocol.SetAdditionalRestores, **component._asdict(), additional=additional)

    def pre_restore(self) -> AsyncOperation[None]:
        """Let the writers with selected components make way."""
        return AsyncOperation(self.connection, protocol.PreRestore)

    def set_file_restore_status(
        self,
        component: ComponentKey,
        status: FileRestoreStatus,
    ) -> None:
        """Say how restoring a component's files went. Before post_restore."""
        self.connection.call(protocol.SetFileRestoreStatus, **component._asdict(), status=status)

    def add_alternative_location_mapping(
        self,
        component: ComponentKey,
        path: str,
        filespec: str,
        recursive: bool,
        destination: str,
    ) -> None:
        """Tell that the files of one file set were put elsewhere. Before post_restore."""
        self.connection.call(
            protocol.AddAlternativeLocationMapping,
            **component._asdict(),
            path=path,
            filespec=filespec,
            recursive=recursive,
            destination=destination,
        )

    def post_restore(self) -> AsyncOperation[None]:
        """Let the writers with selected components take the files over."""
        return AsyncOperation(self.connection, protocol.PostRestore)
