"""When a job runs by itself: a timer of systemd, of which the job's file has the calendar expression."""

from __future__ import annotations

import os
import subprocess

from shadowset.requester.backup.manifest import write_atomically
from shadowset.requester.jobs.definition import Job
from shadowset.vss.codes import Code, VssError

UNITS = "/etc/systemd/system"
PACKAGED = ("/usr/lib/systemd/system", "/lib/systemd/system")
RUNNING = "/run/systemd/system"
SERVICE = "shadowset-job@.service"
MARK = "# Made by 'shadowset job schedule'; 'shadowset job unschedule' removes it."


def unit_name(job: str) -> str:
    """The timer of a job; it starts the service of the same instance."""
    return f"shadowset-job@{job}.timer"


def scheduled_jobs(units: str = UNITS) -> list[str]:
    """The jobs that have a timer there."""
    if not os.path.isdir(units):
        return []
    before, after = unit_name("\0").split("\0")
    names = (name for name in sorted(os.listdir(units)) if name.startswith(before) and name.endswith(after))
    return [name.removeprefix(before).removesuffix(after) for name in names]


def timer_text(job: Job) -> str:
    """The unit. A run that was missed, since the host was off, is made up for. Errors: E_INVALIDARG."""
    if not job.schedule:
        sentence = f'job {job.name} has no schedule; give its file one, as schedule = "daily" or "Mon 03:00"'
        raise VssError(Code.E_INVALIDARG, sentence)
    if any(not character.isprintable() for character in job.schedule):
        raise VssError(Code.E_INVALIDARG, f"the schedule {job.schedule!r} of job {job.name} is no calendar expression")
    try:
        _run("systemd-analyze", "calendar", job.schedule)
    except VssError as error:
        if error.code == Code.VSS_E_OBJECT_NOT_FOUND:
            raise
        sentence = f"the schedule {job.schedule!r} of job {job.name} is no calendar expression of systemd; see "
        raise VssError(Code.E_INVALIDARG, sentence + "systemd.time(7)") from None
    return (
        f"{MARK}\n[Unit]\nDescription=Shadowset job {job.name}\n\n"
        f"[Timer]\nOnCalendar={job.schedule.replace('%', '%%')}\nPersistent=yes\n\n[Install]\nWantedBy=timers.target\n"
    )


def schedule(job: Job, units: str = UNITS) -> str:
    """Write the timer and start it, where systemd runs; its path. Errors: VssError."""
    text = timer_text(job)
    if not any(os.path.exists(f"{directory}/{SERVICE}") for directory in (units, *PACKAGED)):
        sentence = f"there is no unit {SERVICE} that a timer could start; install the units ('shadowset setup')"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence)
    path = f"{units}/{unit_name(job.name)}"
    write_atomically(path, text.encode())
    os.chmod(path, 0o644)
    if os.path.isdir(RUNNING):
        _run("systemctl", "daemon-reload")
        _run("systemctl", "enable", unit_name(job.name))
        _run("systemctl", "restart", unit_name(job.name))
    return path


def unschedule(job: str, units: str = UNITS) -> str:
    """Stop and remove the timer; its path. Errors: VSS_E_OBJECT_NOT_FOUND."""
    path = f"{units}/{unit_name(job)}"
    if not is_scheduled(job, units):
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"job {job} is not scheduled: there is no {path}")
    if os.path.isdir(RUNNING):
        _run("systemctl", "disable", "--now", unit_name(job))
    os.unlink(path)
    if os.path.isdir(RUNNING):
        _run("systemctl", "daemon-reload")
    return path


def is_scheduled(job: str, units: str = UNITS) -> bool:
    """Whether the timer is there."""
    return os.path.exists(f"{units}/{unit_name(job)}")


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sentence = f"{command[0]} is not there; without systemd let something else run 'shadowset job run NAME'"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence) from None
    if done.returncode:
        why = " ".join(done.stderr.split())
        raise VssError(Code.VSS_E_UNEXPECTED, f"{' '.join(command)} failed with {done.returncode}: {why}")
