"""Freezing and thawing one writer alone: a real set of the volumes that it needs, which nobody reads or keeps."""

from __future__ import annotations

import os

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup.kinds import Kinds
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup.plan import Choice, JobPlan, make_plan
from shadowset.requester.backup_components import BackupComponents
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Failure
from shadowset.vss.enums import BackupType, Context, WriterEvent
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SetRecord, TimelineEntry, WriterStatus

PHASES = {event.value for event in WriterEvent}


class Trial(msgspec.Struct, frozen=True):
    """How it went; ``frozen_ms`` is the time from the beginning of freeze to the end of thaw."""

    writer: str
    components: list[str]
    volumes: list[str]
    phases: list[TimelineEntry]
    frozen_ms: float
    limit_ms: int
    failure: Failure


def find_writers(writers: list[WriterStatus], name: str) -> list[WriterStatus]:
    """The writers of a name, instance name or id. Errors: VSS_E_OBJECT_NOT_FOUND when there is none."""
    found = [each for each in writers if name in (each.name, each.instance_name, each.writer_id, each.instance_id)]
    if found:
        return found
    known = ", ".join(sorted({each.name for each in writers})) or "none"
    raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"no writer is named {name}; those that run: {known}")


def find_writer(writers: list[WriterStatus], name: str) -> WriterStatus:
    """The only writer of a name, instance name or id. Errors: VssError when it is none, or several."""
    found = find_writers(writers, name)
    if len(found) == 1:
        return found[0]
    others = ", ".join(f"{each.instance_name or each.instance_id} (process {each.pid})" for each in found)
    raise VssError(Code.E_INVALIDARG, f"several writers are named {name}: {others}; give one of these instances")


def try_writer(name: str, volumes: tuple[str, ...] = (), wait: float = 0.0, paths: Paths | None = None) -> Trial:
    """Freeze and thaw the writer; the copies that are made for it go at once. Its backup history stays.

    ``volumes`` are cut beside those that its components need. Errors: VssError, also when the set fails.
    """
    paths = paths or Paths.from_environment(os.environ)
    with Administration(paths, client="shadowset writers test") as administration:
        writers = administration.list_writers()
        volume_map = VolumeMap(administration.volume_list(), read_mounts())
    writer = find_writer(writers, name)
    with BackupComponents(paths, "shadowset writers test") as calls:
        calls.initialize_for_backup()
        calls.set_context(Context.BACKUP)
        calls.set_backup_state(True, False, BackupType.COPY)
        calls.enable_writer_classes([writer.writer_id])
        calls.disable_writer_instances([each.instance_id for each in writers if each.instance_id != writer.instance_id])
        plan = _plan(calls, writer, volume_map, volumes)
        record = _cut(calls, plan, wait)
        (status,) = [each for each in calls.gather_writer_status().result() if each.instance_id == writer.instance_id]
    return _trial(status, plan, record)


def _plan(calls: BackupComponents, writer: WriterStatus, volume_map: VolumeMap, volumes: tuple[str, ...]) -> JobPlan:
    documents = calls.gather_writer_metadata().result()
    if not documents:
        message = f"{writer.name} did not describe itself; see its log, and what shadowset events says"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
    if not documents[0].components:
        message = f"{writer.name} has nothing to protect; check its configuration, and that its application runs"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
    plan = make_plan(documents, volume_map, os.environ, Choice(volumes=volumes), Kinds(BackupType.COPY, None))
    if not plan.volumes:
        message = f"no file of {writer.name} lies on a protected volume; name one to be cut with --volume"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
    return plan


def _cut(calls: BackupComponents, plan: JobPlan, wait: float) -> SetRecord:
    for component in plan.components:
        calls.add_component(component.key)
    calls.start_snapshot_set(wait, plan.volumes)
    for volume in plan.volumes:
        calls.add_to_snapshot_set(volume)
    calls.prepare_for_backup().result()
    return calls.do_snapshot_set().result()


def _trial(status: WriterStatus, plan: JobPlan, record: SetRecord) -> Trial:
    own = [entry for entry in record.timeline if entry.actor.startswith("writer ")]
    phases = [entry for entry in own if entry.phase in PHASES]
    began = [entry.start_ms for entry in phases if entry.phase == WriterEvent.FREEZE.value]
    ended = [entry.end_ms for entry in phases if entry.phase == WriterEvent.THAW.value]
    frozen = ended[-1] - began[0] if began and ended else 0.0
    name = f"{status.name} ({status.instance_name})" if status.instance_name else status.name
    components = [component.info.full_path for component in plan.components]
    limit = status.freeze_window_ms or status.freeze_timeout_ms
    return Trial(name, components, list(plan.volumes), phases, frozen, limit, status.failure)
