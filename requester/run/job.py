"""A shadow copy set for the time of one command, seen by it under the volumes' own paths.

The command gets a mount namespace of its own, in which each copy is mounted where its volume is. So a backup program
that is given ``/srv/data`` reads the copy, records ``/srv/data``, and finds its earlier backups again. What it ends
with is told to the writers as the success of their components.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import IO

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup.kinds import Kinds
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup.plan import Choice, JobPlan, make_plan
from shadowset.requester.backup.undescribed import undescribed, undescribed_text
from shadowset.requester.backup.verdicts import Verdicts
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.create import environment_of, make_set
from shadowset.requester.observer import Observer, Silent
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType, Context
from shadowset.vss.mountinfo import Mount
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SetRecord, SupportedVolume, VolumeInfo, WriterStatus

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NAMESPACE = ("unshare", "--mount", "--propagation", "unchanged")
USER_NAMESPACE = ("--user", "--map-current-user", "--keep-caps")
DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM")
NO_NAMESPACE = "a mount namespace cannot be made here; run where root may mount"
NO_USER_NAMESPACE = (
    "this host lets only root make a mount namespace (see kernel.unprivileged_userns_clone, "
    "user.max_user_namespaces, AppArmor; in a chroot it is always so); run as root, or use shadowset create --exec"
)


class RunReport(msgspec.Struct, kw_only=True):
    """How it went: the command's exit status, and in sentences what of the writers was not as it should be."""

    set_id: str
    status: int
    volumes: list[str]
    mounts: dict[str, str]
    components: list[str]
    problems: list[str]


class RunJob:
    """One run of ``command`` over the ``volumes`` (names, or paths on them; all that are mounted when empty)."""

    def __init__(
        self,
        command: Sequence[str],
        volumes: Sequence[str] = (),
        *,
        backup_type: BackupType = BackupType.COPY,
        paths: Paths | None = None,
        observer: Observer | None = None,
        variables: Mapping[str, str] | None = None,
        wait: float = 0.0,
        output: IO[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``output``: where the command's standard output goes instead of this process's.

        ``environment``: what the command finds in its environment besides this process's.

        ``ran`` becomes true when the command, or what should have begun it, has ended.
        """
        self._output = output
        self._environment = dict(environment or {})
        self._command = list(command)
        self._asked = list(volumes)
        self._type = backup_type
        self._paths = paths or Paths.from_environment(os.environ)
        self._observer: Observer = observer or Silent()
        self._variables = os.environ if variables is None else variables
        self._wait = wait
        self.ran = False
        self._problems: list[str] = []

    def run(self) -> RunReport:
        """Do it. Errors: VssError, with nothing left behind; ``ran`` tells on which side of the command it was."""
        with Administration(self._paths, client="shadowset run") as administration:
            known = administration.volume_list()
            others = administration.query_volumes_supported()
            registered = administration.list_writers()
        table = read_mounts()
        self._volume_map = VolumeMap(known, table, others)
        names = chosen_volumes(self._asked, known, self._volume_map)
        with BackupComponents(self._paths, "shadowset run", on_notice=self._observer.notice) as calls:
            plan = self._plan(calls, names, registered)
            verdicts = Verdicts(plan)
            record = self._cut(calls, plan, verdicts)
            places = mount_places(known, table, others)
            status, mounts = self._execute(calls, record, places)
            self._complete(calls, plan, verdicts, status)
            for copy in record.snapshots:
                calls.unexpose_snapshot(copy.snapshot_id)
        return RunReport(
            set_id=record.set_id,
            status=status,
            volumes=list(plan.volumes),
            mounts=mounts,
            components=[f"{one.writer.name}: {one.info.full_path}" for one in plan.components],
            problems=[*self._problems, *verdicts.reasons.values(), *verdicts.problems],
        )

    def _plan(self, calls: BackupComponents, names: list[str], registered: list[WriterStatus]) -> JobPlan:
        """All components that lie on these volumes; what spreads further is named and left out."""
        self._observer.phase("asking the writers")
        calls.initialize_for_backup()
        calls.set_context(Context.BACKUP)
        calls.set_backup_state(True, False, self._type, partial_files=False)
        writers = calls.gather_writer_metadata().result()
        silent = undescribed(registered, {(one.writer_id, one.instance_id) for one in writers})
        self._problems += [undescribed_text(one, registered) for one in silent]
        if not any(writer.components for writer in writers):
            return JobPlan((), tuple(names), ())
        try:
            choice = Choice(self._type, volumes=tuple(names))
            plan = make_plan(writers, self._volume_map, self._variables, choice, Kinds(self._type, None))
        except VssError as error:
            if error.code != Code.VSS_E_OBJECT_NOT_FOUND:
                raise
            return JobPlan((), tuple(names), ())
        inside = tuple(one for one in plan.components if one.volumes and one.volumes <= set(names))
        self._problems += [
            f"component {one.info.full_path} of writer {one.writer.name} lies partly on volumes that are not in the "
            f"set ({', '.join(sorted(one.volumes - set(names)))}), so its files are as after a crash"
            for one in plan.components
            if one.volumes & set(names) and not one.volumes <= set(names)
        ]
        return JobPlan(inside, tuple(names), plan.dropped)

    def _cut(self, calls: BackupComponents, plan: JobPlan, verdicts: Verdicts) -> SetRecord:
        for component in plan.components:
            calls.add_component(component.key)
        set_id = calls.start_snapshot_set(self._wait)
        for name in plan.volumes:
            calls.add_to_snapshot_set(name)
        self._observer.phase("preparing the writers")
        calls.prepare_for_backup().result()
        verdicts.judge(calls)
        self._observer.phase("making the shadow copies")
        record = make_set(calls, set_id)
        verdicts.judge(calls)
        return record

    def _execute(
        self, calls: BackupComponents, record: SetRecord, places: list[tuple[str, str, str]]
    ) -> tuple[int, dict[str, str]]:
        copies = {copy.original_volume: calls.expose_snapshot(copy.snapshot_id) for copy in record.snapshots}
        mounts = mounts_over(places, copies)
        self._observer.phase("running the command")
        environment = {**os.environ, **self._environment, **environment_of(record, copies)}
        status = run_inside(self._command, mounts, environment, self._output)
        self.ran = True
        return status, mounts

    def _complete(self, calls: BackupComponents, plan: JobPlan, verdicts: Verdicts, status: int) -> None:
        self._observer.phase("telling the writers")
        for number, component in enumerate(plan.components):
            calls.set_backup_succeeded(component.key, status == 0 and number not in verdicts.reasons)
        calls.backup_complete().result()
        verdicts.note_failed_writers(calls, "after the command")


def chosen_volumes(asked: list[str], known: list[VolumeInfo], volume_map: VolumeMap) -> list[str]:
    """The names of the volumes, each once. Errors: VSS_E_OBJECT_NOT_FOUND for what is none, or for none at all."""
    if not asked:
        mounted = [volume.name for volume in known if volume.mount_points]
        if mounted:
            return mounted
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, "no protected volume is mounted; mount one, or name a subvolume")
    names = []
    for word in asked:
        place = volume_map.locate(word) if "/" in word else None
        name = place.volume if place else word
        if name not in volume_map.names:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{word} is no protected volume and lies on none; add it first")
        names.append(name)
    return list(dict.fromkeys(names))


def mount_places(
    known: list[VolumeInfo], table: list[Mount], others: Sequence[SupportedVolume] = ()
) -> list[tuple[str, str, str]]:
    """Of each mount point: itself, the volume, and which directory of the volume's copy is there."""
    roots = {mount.path: mount.root for mount in table}
    found = [(point, volume.name, roots.get(point, "/")) for volume in known for point in volume.mount_points]
    return found + [(point, volume.name, "/") for volume in others for point in volume.mount_points]


def mounts_over(places: list[tuple[str, str, str]], copies: Mapping[str, str]) -> dict[str, str]:
    """What to mount where: mount point of a live volume → directory of its copy; outer ones before inner ones."""
    found = {
        point: f"{copies[volume]}/{root.strip('/')}".rstrip("/") for point, volume, root in places if volume in copies
    }
    return dict(sorted(found.items()))


def run_inside(
    command: list[str], mounts: Mapping[str, str], environment: Mapping[str, str], output: IO[str] | None = None
) -> int:
    """Run a command where ``mounts`` are made; returns its exit status, 128 and the signal's number when killed.

    Errors: E_ACCESSDENIED when it was not run, since there can be no such namespace; OSError.

    It is ended when this process is. Signals that would end this process go to the command instead.
    """
    unprivileged = USER_NAMESPACE if os.geteuid() else ()
    # after unshare, since another user namespace makes the kernel forget who is to be told of our death
    wrapped = [*NAMESPACE, *unprivileged, *DIES_WITH_US, sys.executable, "-m", "shadowset.requester.run.inside"]
    began, begins = os.pipe()
    try:
        arguments = [*wrapped, str(begins), json.dumps(dict(mounts)), *command]
        process = subprocess.Popen(arguments, env=dict(environment), stdout=output, pass_fds=(begins,))
    except OSError:
        os.close(began)
        raise
    finally:
        os.close(begins)

    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with open(began, "rb") as pipe:
        if status > 0 and not pipe.read():
            raise VssError(Code.E_ACCESSDENIED, NO_USER_NAMESPACE if unprivileged else NO_NAMESPACE)
    return status if status >= 0 else 128 - status
