"""A whole backup, from the question what there is to the finished directory.

The order is VSS's: gather, choose, start the set, prepare, cut, copy out of the shadow copies, tell the writers how it
went. Documents and manifest are saved before the writers hear of the end, since they may cut logs then. Files are
listed in the copies, after the cut. A component fails as a whole when one of its files cannot be read or its writer
failed, and the others go on. A target that cannot be written ends the job. What was written then stays, marked as
unfinished, where a later backup may go on with it (see ``unfinished``); else it is removed, since a directory without a
manifest is no backup.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.chain import open_chain, require_base
from shadowset.requester.backup.copies import Copies
from shadowset.requester.backup.kinds import Earlier, Kinds
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup.plan import Choice, JobPlan, dropped_text, leaving_out, make_plan, missing
from shadowset.requester.backup.record import component_entry, count_files, new_manifest, save_documents
from shadowset.requester.backup.store import Settling, Target
from shadowset.requester.backup.system_list import files_not_to_backup
from shadowset.requester.backup.undescribed import (
    is_concerned,
    refuse_wanted,
    undescribed,
    undescribed_text,
    without_selectors_of,
)
from shadowset.requester.backup.verdicts import Verdicts
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.observer import Observer, Silent
from shadowset.vss.codes import Code, VssError
from shadowset.vss.documents import components_from_xml
from shadowset.vss.enums import Context
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SetRecord, WriterStatus


class BackupReport(msgspec.Struct, kw_only=True):
    """How a backup went; ``succeeded`` when every component and writer did, and nothing was left out unasked.

    ``dropped``, ``skipped``, ``remarks`` (of writers, on components that did not fail) and ``problems`` are
    sentences; ``left_out`` are those dropped that nobody excluded. ``resumed``: it went on with an unfinished one.
    ``stored_bytes`` are those that were not there before.
    """

    target: str
    set_id: str
    succeeded: bool
    files: int
    bytes: int
    stored_bytes: int
    resumed: bool
    seconds: float
    skew_ms: float
    backup_type: str
    base: str
    volumes: list[str]
    components: list[bundle.ManifestComponent]
    dropped: list[str]
    left_out: list[str]
    skipped: list[str]
    remarks: list[str]
    problems: list[str]


@dataclass(frozen=True)
class Manner:
    """How the calls are made, for programs that test writers: a context, and what to leave out.

    Without ``complete`` the writers never hear BackupComplete. Without ``copying`` no file is copied, and every
    component that did not fail counts as backed up, unless the writers are not told either. ``previous_document`` (XML)
    stands for a base of which only the document is known; with ``without_base`` not even that needs to be.
    ``stop_at_error`` ends the backup with the first failure that a writer tells.
    """

    context: int = Context.BACKUP
    bootable_system_state: bool = False
    complete: bool = True
    copying: bool = True
    previous_document: str = ""
    without_base: bool = False
    stop_at_error: bool = False


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
        manner: Manner = Manner(),
        pool: Settling | None = None,
    ) -> None:
        """``wait``: seconds to wait while other sets are made; ``pool``: where equal contents are stored once."""
        self._pool = pool
        self._wait = wait
        self._where = target
        self._choice = choice
        self._manner = manner
        self._paths = paths or Paths.from_environment(os.environ)
        self._observer: Observer = observer or Silent()
        self._variables = os.environ if variables is None else variables
        self._silent: list[str] = []
        self._saved = False

    def run(self) -> BackupReport:
        """Do it; a backup of which only part succeeded is told by the report. Errors: VssError when there is none."""
        began = time.monotonic()
        self._earlier = self._open_base()
        with Administration(self._paths, client="shadowset backup") as administration:
            volumes = administration.volume_list()
            others = administration.query_volumes_supported()
            registered = administration.list_writers()
        self._volume_map = VolumeMap(volumes, read_mounts(), others)
        self._protected_map = VolumeMap(volumes, read_mounts())
        self._mount_points = {volume.name: volume.mount_points for volume in volumes}
        self._mount_points |= {volume.name: volume.mount_points for volume in others}
        with BackupComponents(self._paths, "shadowset backup", on_notice=self._observer.notice) as calls:
            plan = self._plan(calls, registered)
            refuse_target_on(self._where, plan, self._volume_map)
            target = Target(self._where, self._pool)
            try:
                return self._run(calls, plan, target, began)
            except BaseException as error:
                if not self._saved:
                    target.give_up(error)
                raise

    def _open_base(self) -> Earlier | None:
        if self._manner.previous_document:
            return Earlier(components_from_xml(self._manner.previous_document), [])
        chain = open_chain(self._choice.base) if self._choice.base else []
        if not self._manner.without_base:
            require_base(self._choice.backup_type, chain[-1] if chain else None)
        return Earlier(chain[-1].document, chain) if chain else None

    def _plan(self, calls: BackupComponents, registered: list[WriterStatus]) -> JobPlan:
        self._observer.phase("asking the writers")
        calls.initialize_for_backup()
        calls.set_context(self._manner.context)
        calls.set_backup_state(True, self._manner.bootable_system_state, self._choice.backup_type, partial_files=True)
        self._writers = calls.gather_writer_metadata().result()
        choice = self._note_silent_writers(registered)
        kinds = Kinds(choice.backup_type, self._earlier)
        self._left_out = files_not_to_backup(self._paths.not_to_backup, {writer.name for writer in self._writers})
        try:
            plan = make_plan(self._writers, self._volume_map, self._variables, choice, kinds)
            one_by_one = sorted(self._volume_map.not_held & set(plan.volumes))
            if len(one_by_one) > 1:
                self._silent.append(_not_together(one_by_one))
                self._volume_map = self._protected_map
                plan = make_plan(self._writers, self._volume_map, self._variables, choice, kinds)
            return leaving_out(plan, self._left_out)
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

    def _run(self, calls: BackupComponents, plan: JobPlan, target: Target, began: float) -> BackupReport:
        self._verdicts = Verdicts(plan)
        record, snapshots = self._cut(calls, plan)
        exposed = {name: calls.expose_snapshot(snapshot_id) for name, snapshot_id in snapshots.items()}
        copies = Copies(target, exposed, self._volume_map, self._variables)
        if self._manner.copying:
            bases = self._files_of_bases(plan)
            copies.take(plan, bases, self._verdicts, self._observer)
        self._tell_results(calls, plan)
        manifest = self._manifest(plan, record, copies)
        mounts = self._mount_points
        manifest.volumes = [
            bundle.ManifestVolume(name=name, snapshot_id=snapshot_id, mount_points=mounts[name])
            for name, snapshot_id in snapshots.items()
        ]
        manifest.documents = save_documents(calls, plan, target)
        target.keep_only(file.stored for file in manifest.files)
        bundle.save(target.directory, manifest)
        self._saved = True
        target.finish()
        # Only now: a writer that hears of a success may cut its logs.
        self._complete(calls, list(snapshots.values()))
        left_out = [*self._silent, *(dropped_text(one) for one in missing(plan.dropped, self._choice.wanted))]
        return self._report(target, manifest, left_out, time.monotonic() - began)

    def _cut(self, calls: BackupComponents, plan: JobPlan) -> tuple[SetRecord, dict[str, str]]:
        for component in plan.components:
            calls.add_component(component.key)
        calls.start_snapshot_set(self._wait, plan.volumes)
        snapshots = {name: calls.add_to_snapshot_set(name) for name in plan.volumes}
        self._tell_components(calls, plan)
        self._observer.phase("preparing the writers")
        calls.prepare_for_backup().result()
        self._judge(calls)
        self._observer.phase("making the shadow copies")
        record = calls.do_snapshot_set().result()
        self._judge(calls)
        return record, snapshots

    def _tell_components(self, calls: BackupComponents, plan: JobPlan) -> None:
        """Stamps of the base, and the user's options. One that is taken whole builds on nothing."""
        for component in plan.components:
            stamp = ""
            if self._earlier is not None and component.builds_on_base:
                stamp = self._earlier.stamp(component.writer, component.info)
            if stamp:
                calls.set_previous_backup_stamp(component.key, stamp)
            for selector, options in self._choice.options:
                if selector.names(component.writer) and selector.path in ("", component.info.full_path):
                    calls.set_backup_options(component.key, options)

    def _judge(self, calls: BackupComponents) -> None:
        self._verdicts.judge(calls)
        if self._manner.stop_at_error and self._verdicts.reasons:
            raise VssError(Code.VSS_E_UNEXPECTED_WRITER_ERROR, next(iter(self._verdicts.reasons.values())))

    def _tell_results(self, calls: BackupComponents, plan: JobPlan) -> None:
        backed_up = self._manner.copying or self._manner.complete
        for number, component in enumerate(plan.components):
            calls.set_backup_succeeded(component.key, backed_up and number not in self._verdicts.reasons)

    def _complete(self, calls: BackupComponents, snapshots: list[str]) -> None:
        """Let the writers finish. The backup stands by now, whatever becomes of them and of the coordinator."""
        self._observer.phase("telling the writers")
        try:
            if self._manner.complete:
                calls.backup_complete().result()
            self._verdicts.note_failed_writers(calls, "after the backup")
            for snapshot_id in snapshots:
                calls.unexpose_snapshot(snapshot_id)
        except VssError as error:
            told = f"the backup is finished, but its writers may not know: {error.message}"
            self._verdicts.problems.append(told)

    # ---- the record ----

    def _files_of_bases(self, plan: JobPlan) -> dict[int, dict[str, bundle.ManifestFile] | None]:
        if self._earlier is None:
            return {}
        return {
            number: self._earlier.files(component.writer, component.info)
            for number, component in enumerate(plan.components)
            if component.builds_on_base
        }

    def _manifest(self, plan: JobPlan, record: SetRecord, copies: Copies) -> bundle.Manifest:
        manifest = new_manifest(record, self._choice.backup_type.name)
        if self._earlier is not None and self._earlier.chain:
            manifest.base = self._earlier.chain[-1].as_base_of(self._where)
        manifest.dropped = [*self._silent, *(dropped_text(one) for one in plan.dropped)]
        manifest.skipped = copies.skipped
        manifest.excluded = list(self._left_out)
        manifest.files = copies.files
        manifest.components = [
            component_entry(component, self._verdicts.reasons.get(number, ""), copies.gone.get(number, []))
            for number, component in enumerate(plan.components)
        ]
        count_files(manifest)
        return manifest

    def _report(self, target: Target, manifest: bundle.Manifest, left_out: list[str], seconds: float) -> BackupReport:
        problems = self._verdicts.problems
        return BackupReport(
            target=target.directory,
            set_id=manifest.set_id,
            succeeded=not self._verdicts.reasons and not problems and not left_out,
            files=sum(1 for file in manifest.files if file.kind == bundle.REGULAR),
            bytes=manifest.total_bytes,
            stored_bytes=target.new_bytes,
            resumed=target.resumed,
            seconds=seconds,
            skew_ms=manifest.skew_ms,
            backup_type=manifest.backup_type,
            base=self._earlier.chain[-1].directory if self._earlier and self._earlier.chain else "",
            volumes=[volume.name for volume in manifest.volumes],
            components=manifest.components,
            dropped=manifest.dropped,
            left_out=left_out,
            skipped=manifest.skipped,
            remarks=self._verdicts.remarks,
            problems=problems,
        )


def _not_together(names: list[str]) -> str:
    return (
        f"{', '.join(names)} cannot be cut at one instant, so none of them is copied; choose components of one of them"
    )


def refuse_target_on(target: str, plan: JobPlan, volume_map: VolumeMap) -> None:
    """Refuse a target on a volume of the set, which would wait for itself while it is frozen. Errors: E_INVALIDARG."""
    place = volume_map.locate(os.path.abspath(target))
    if place is not None and place.volume in plan.volumes and place.volume not in volume_map.not_held:
        raise VssError(
            Code.E_INVALIDARG,
            f"the target {target} lies on volume {place.volume}, which this backup cuts; choose a place on another "
            "file system",
        )
