"""A whole backup, from the question what there is to the finished directory.

The order is VSS's: gather, choose, start the set, prepare, cut, copy out of the shadow copies, tell the writers how it
went, save the documents. Files are listed in the copies, after the cut. A component fails as a whole when one of its
files cannot be read or its writer failed, and the others go on. A target that cannot be written ends the job: what was
written is removed, since a directory without a manifest is no backup.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.copy import OnBytes, sync_file_system
from shadowset.requester.backup.listing import Listing, list_component
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup.plan import Choice, JobPlan, PlannedComponent, dropped_text, make_plan, missing
from shadowset.requester.backup.store import Target, component_directories, copy_one
from shadowset.requester.backup.undescribed import (
    is_concerned,
    refuse_wanted,
    undescribed,
    undescribed_text,
    without_selectors_of,
)
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.observer import Observer, Silent
from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.documents import metadata_to_xml
from shadowset.vss.enums import Context, WriterState
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SetRecord, VolumeInfo, WriterStatus


class BackupReport(msgspec.Struct, kw_only=True):
    """How a backup went; ``succeeded`` when every component and writer did, and nothing was left out unasked.

    ``dropped``, ``skipped`` and ``problems`` are sentences; ``left_out`` are those dropped that nobody
    excluded.
    """

    target: str
    set_id: str
    succeeded: bool
    files: int
    bytes: int
    seconds: float
    skew_ms: float
    volumes: list[str]
    components: list[bundle.ManifestComponent]
    dropped: list[str]
    left_out: list[str]
    skipped: list[str]
    problems: list[str]


class BackupJob:
    """One backup into the directory ``target``. ``run`` once."""

    def __init__(
        self,
        target: str,
        choice: Choice,
        *,
        paths: Paths | None = None,
        observer: Observer | None = None,
        variables: Mapping[str, str] | None = None,
        wait: float = 0.0,
    ) -> None:
        """``wait``: seconds to wait while other sets are made."""
        self._wait = wait
        self._where = target
        self._choice = choice
        self._paths = paths or Paths.from_environment(os.environ)
        self._observer: Observer = observer or Silent()
        self._variables = os.environ if variables is None else variables
        self._reasons: dict[int, str] = {}
        self._problems: list[str] = []
        self._silent: list[str] = []
        self._files: list[bundle.ManifestFile] = []
        self._skipped: list[str] = []

    def run(self) -> BackupReport:
        """Do it; a backup of which only part succeeded is told by the report. Errors: VssError when there is none."""
        began = time.monotonic()
        with Administration(self._paths, client="shadowset backup") as administration:
            volumes = administration.volume_list()
            registered = administration.list_writers()
        with BackupComponents(self._paths, "shadowset backup", on_notice=self._observer.notice) as calls:
            plan = self._plan(calls, volumes, registered)
            refuse_target_on(self._where, plan, VolumeMap(volumes, read_mounts()))
            target = Target(self._where)
            try:
                return self._run(calls, plan, target, volumes, began)
            except BaseException:
                target.discard()
                raise

    def _plan(self, calls: BackupComponents, volumes: list[VolumeInfo], registered: list[WriterStatus]) -> JobPlan:
        self._observer.phase("asking the writers")
        calls.initialize_for_backup()
        calls.set_context(Context.BACKUP)
        calls.set_backup_state(True, False, self._choice.backup_type)
        self._writers = calls.gather_writer_metadata().result()
        choice = self._note_silent_writers(registered)
        try:
            return make_plan(self._writers, VolumeMap(volumes, read_mounts()), self._variables, choice)
        except VssError as error:
            raise VssError(error.code, "; ".join([error.message, *self._silent])) from None

    def _note_silent_writers(self, registered: list[WriterStatus]) -> Choice:
        """Note who should be in the backup and did not describe itself; returns the choice among the others."""
        silent = undescribed(registered, {(one.writer_id, one.instance_id) for one in self._writers})
        if not silent:
            return self._choice
        with Administration(self._paths, client="shadowset backup") as administration:
            after = administration.list_writers()
        refuse_wanted(silent, self._writers, after, self._choice)
        self._silent = [undescribed_text(one, after) for one in silent if is_concerned(one, self._choice)]
        excluded = without_selectors_of(silent, self._writers, self._choice.excluded)
        return dataclasses.replace(self._choice, excluded=excluded)

    def _run(
        self, calls: BackupComponents, plan: JobPlan, target: Target, volumes: list[VolumeInfo], began: float
    ) -> BackupReport:
        record, snapshots = self._cut(calls, plan)
        exposed = {name: calls.expose_snapshot(snapshot_id) for name, snapshot_id in snapshots.items()}
        self._copy_all(plan, target, exposed)
        self._observer.phase("telling the writers")
        for number, component in enumerate(plan.components):
            calls.set_backup_succeeded(component.key, number not in self._reasons)
        calls.backup_complete().result()
        self._note_failed_writers(calls, plan, "after the backup")
        mounts = {volume.name: volume.mount_points for volume in volumes}
        manifest = self._manifest(plan, record)
        manifest.volumes = [
            bundle.ManifestVolume(name=name, snapshot_id=snapshot_id, mount_points=mounts[name])
            for name, snapshot_id in snapshots.items()
        ]
        manifest.documents = self._save_documents(calls, plan, target)
        bundle.save(target.directory, manifest)
        for snapshot_id in snapshots.values():
            calls.unexpose_snapshot(snapshot_id)
        left_out = [*self._silent, *(dropped_text(one) for one in missing(plan.dropped, self._choice.wanted))]
        return self._report(target, manifest, left_out, time.monotonic() - began)

    def _cut(self, calls: BackupComponents, plan: JobPlan) -> tuple[SetRecord, dict[str, str]]:
        for component in plan.components:
            calls.add_component(component.key)
        calls.start_snapshot_set(self._wait)
        snapshots = {name: calls.add_to_snapshot_set(name) for name in plan.volumes}
        self._observer.phase("preparing the writers")
        calls.prepare_for_backup().result()
        self._judge(calls, plan)
        self._observer.phase("making the shadow copies")
        record = calls.do_snapshot_set().result()
        self._judge(calls, plan)
        return record, snapshots

    # ---- what failed ----

    def _fail(self, number: int, reason: str) -> None:
        self._reasons.setdefault(number, reason)

    def _judge(self, calls: BackupComponents, plan: JobPlan) -> None:
        """A writer that failed takes all its components with it; one that failed in part, those that say so."""
        failed = [status for status in calls.gather_writer_status().result() if has_failed(status)]
        self._fail_components_of([status for status in failed if not failed_in_part(status)], plan)
        self._fail_components_that_say_so(calls, plan)
        named = self._writers_with_failed_components(plan)
        self._fail_components_of([status for status in failed if status.instance_id not in named], plan)

    def _writers_with_failed_components(self, plan: JobPlan) -> set[str]:
        return {plan.components[number].writer.instance_id for number in self._reasons}

    def _fail_components_of(self, failed: list[WriterStatus], plan: JobPlan) -> None:
        by_instance = {status.instance_id: status for status in failed}
        for number, component in enumerate(plan.components):
            status = by_instance.get(component.writer.instance_id)
            if status is not None:
                self._fail(number, writer_failure_text(status))

    def _fail_components_that_say_so(self, calls: BackupComponents, plan: JobPlan) -> None:
        document = calls.get_document()
        for number, component in enumerate(plan.components):
            writer = document.writer(component.writer.writer_id, component.writer.instance_id)
            found = writer.component(component.info.logical_path, component.info.name) if writer else None
            if found is not None and found.failure.code:
                self._fail(number, f"its writer says: {found.failure.message} [{describe(found.failure.code)}]")

    def _note_failed_writers(self, calls: BackupComponents, plan: JobPlan, when: str) -> None:
        taking_part = {component.writer.instance_id for component in plan.components}
        for status in calls.gather_writer_status().result():
            named = any(writer_failure_text(status) == reason for reason in self._reasons.values()) or (
                failed_in_part(status) and status.instance_id in self._writers_with_failed_components(plan)
            )
            if status.instance_id in taking_part and has_failed(status) and not named:
                self._problems.append(f"{when} {writer_failure_text(status)}")

    # ---- copying ----

    def _copy_all(self, plan: JobPlan, target: Target, exposed: dict[str, str]) -> None:
        self._observer.phase("listing the files")
        listings = {
            number: listing
            for number, component in enumerate(plan.components)
            if number not in self._reasons and (listing := self._list(number, component, exposed)) is not None
        }
        directories = component_directories(plan.components)
        self._observer.phase("copying the files")
        on_bytes = self._observer.begin(sum(listing.size for listing in listings.values()))
        for number, listing in listings.items():
            self._copy_component(number, plan.components[number], listing, target, directories[number], on_bytes)
        sync_file_system(target.directory)
        self._observer.end()

    def _list(self, number: int, component: PlannedComponent, exposed: dict[str, str]) -> Listing | None:
        try:
            listing = list_component(component, exposed, self._variables)
        except OSError as error:
            self._fail(number, f"{error.filename} cannot be read: {error.strerror}")
            return None
        self._skipped += [f"{path} is a socket, FIFO or device node" for path in listing.skipped]
        return listing

    def _copy_component(
        self,
        number: int,
        component: PlannedComponent,
        listing: Listing,
        target: Target,
        directory: str,
        on_bytes: OnBytes,
    ) -> None:
        entries = []
        for found in listing.found:
            try:
                entries.append(copy_one(target.directory, component, directory, found, on_bytes))
            except OSError as error:
                self._fail(number, f"{found.path} cannot be read: {error.strerror}")
                target.discard_component(directory)
                return
        self._files += entries

    # ---- the record ----

    def _component_entries(
        self, plan: JobPlan, files_of: dict[bundle.ComponentId, list[bundle.ManifestFile]]
    ) -> list[bundle.ManifestComponent]:
        entries = []
        for number, component in enumerate(plan.components):
            entry = bundle.ManifestComponent(
                writer_id=component.writer.writer_id,
                instance_id=component.writer.instance_id,
                writer=component.writer.name,
                type=component.info.type.name,
                logical_path=component.info.logical_path,
                name=component.info.name,
                succeeded=number not in self._reasons,
                reason=self._reasons.get(number, ""),
            )
            mine = files_of.get(entry.key, [])
            entry.files = sum(1 for file in mine if file.kind == bundle.REGULAR)
            entry.bytes = sum(file.size for file in mine)
            entries.append(entry)
        return entries

    def _manifest(self, plan: JobPlan, record: SetRecord) -> bundle.Manifest:
        from shadowset import __version__

        manifest = bundle.Manifest(
            version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            host=socket.gethostname(),
            set_id=record.set_id,
            backup_type=self._choice.backup_type.name,
            skew_ms=record.skew_ms,
            dropped=[*self._silent, *(dropped_text(one) for one in plan.dropped)],
            skipped=self._skipped,
            files=self._files,
        )
        manifest.components = self._component_entries(plan, manifest.files_by_component())
        return manifest

    def _save_documents(self, calls: BackupComponents, plan: JobPlan, target: Target) -> list[bundle.ManifestDocument]:
        documents = [_save(target, bundle.COMPONENTS_DOCUMENT, calls.save_as_xml(), None)]
        taking_part = {component.writer.instance_id: component.writer for component in plan.components}
        for number, writer in enumerate(taking_part.values()):
            documents.append(_save(target, f"WriterMetadata{number}.xml", metadata_to_xml(writer), writer))
        return documents

    def _report(self, target: Target, manifest: bundle.Manifest, left_out: list[str], seconds: float) -> BackupReport:
        return BackupReport(
            target=target.directory,
            set_id=manifest.set_id,
            succeeded=not self._reasons and not self._problems and not left_out,
            files=sum(1 for file in manifest.files if file.kind == bundle.REGULAR),
            bytes=manifest.total_bytes,
            seconds=seconds,
            skew_ms=manifest.skew_ms,
            volumes=[volume.name for volume in manifest.volumes],
            components=manifest.components,
            dropped=manifest.dropped,
            left_out=left_out,
            skipped=manifest.skipped,
            problems=self._problems,
        )


def has_failed(status: WriterStatus) -> bool:
    """Whether a writer is out of this backup."""
    return status.state >= WriterState.FAILED_AT_IDENTIFY or not status.connected


def failed_in_part(status: WriterStatus) -> bool:
    """Whether a writer says that only some of its components failed."""
    return status.connected and status.failure.code == Code.VSS_E_WRITERERROR_PARTIAL_FAILURE


def writer_failure_text(status: WriterStatus) -> str:
    """What is wrong with a writer, as a sentence."""
    state = status.state.name.lower().replace("_", " ")
    if not status.connected:
        state += ", its process is gone"
    why = f": {status.failure.message} [{describe(status.failure.code)}]" if status.failure.code else ""
    return f"writer {status.name} {state}{why}"


def _save(target: Target, name: str, text: str, writer: WriterMetadata | None) -> bundle.ManifestDocument:
    bundle.write_atomically(f"{target.directory}/{name}", text.encode("utf-8", "surrogateescape"))
    return bundle.ManifestDocument(
        path=name,
        sha256=bundle.digest_text(text),
        writer_id=writer.writer_id if writer else "",
        instance_id=writer.instance_id if writer else "",
    )


def refuse_target_on(target: str, plan: JobPlan, volume_map: VolumeMap) -> None:
    """Refuse a target on a volume of the set, which would wait for itself while it is frozen. Errors: E_INVALIDARG."""
    place = volume_map.locate(os.path.abspath(target))
    if place is not None and place.volume in plan.volumes:
        raise VssError(
            Code.E_INVALIDARG,
            f"the target {target} lies on volume {place.volume}, which this backup cuts; choose a place on another "
            "file system",
        )
