"""How far a restored cluster is rolled forward, and how its server is told."""

from __future__ import annotations

import json
import os
import shlex

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import RollForward
from shadowset.writers.postgresql.copy_recovery import RECOVERED
from shadowset.writers.postgresql.log_backup import METHOD as LOG
from shadowset.writers.postgresql.settings import ClusterSettings

SETTINGS = (
    "restore_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
)


def prepare_recovery(settings: ClusterSettings, data: str, component: Component) -> None:
    """Removes what belongs to the lost server, and writes down how far the log is to be rolled forward.

    Errors: VssError.
    """
    _remove(f"{data}/postmaster.pid")
    wanted = recovery_settings(settings, data, component)
    if not wanted:
        return
    try:
        _write_recovery(data, wanted)
    except OSError as error:
        message = (
            f"the recovery of {data} cannot be set up ({error.filename or data}: {error.strerror}); look at the disk"
        )
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error


def _write_recovery(data: str, wanted: dict[str, str]) -> None:
    """An earlier restore's targets go: a server refuses a second one, even an empty one."""
    path = f"{data}/postgresql.auto.conf"
    with open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        kept = [line for line in file if line.split("=")[0].strip() not in SETTINGS]
    lines = kept + [f"{name} = '{_quoted(value)}'\n" for name, value in wanted.items()]
    owner = os.stat(data)
    for name, content in (("postgresql.auto.conf", "".join(lines)), ("recovery.signal", "")):
        fd = os.open(f"{data}/{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="utf-8") as new:
            new.write(content)
            new.flush()
            os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fsync(fd)
        os.rename(f"{data}/{name}.new", f"{data}/{name}")


def recovery_settings(settings: ClusterSettings, data: str, component: Component) -> dict[str, str]:
    """What the server has to be told for the roll forward that the component wants.

    Without a wish the cluster becomes what it was at the cut, on a time line of its own if there is an archive, so
    that its new log is never taken for the old one; after a log backup, what it was at the end of that log. ALL goes
    to the end of the archived log; PARTIAL to ``roll_forward_point``: a time as PostgreSQL reads it, followed by
    ``timeline N`` when it is not the log backup's, or without one the latest. Errors: E_INVALIDARG.
    """
    facts = facts_of(component)
    log = facts if facts.get("method") == LOG else {}
    command = _restore_command(settings, log)
    if component.roll_forward == RollForward.NONE or (component.roll_forward == RollForward.UNDEFINED and not log):
        if not command:
            return {}
        # the archive is asked which time lines exist, and gives none of its log
        histories = f'case "%f" in *.history) {command} ;; *) exit 1 ;; esac'
        return {"restore_command": histories, "recovery_target_timeline": "current"}
    if not command:
        message = f"{data} is to be rolled forward, but has neither restore_command nor archive_directory in the"
        raise VssError(Code.E_INVALIDARG, f"{message} writer's configuration; add one")
    if facts.get("copy") == RECOVERED:
        message = f"{data} has recovered in its copy, from where the archived log does not go on"
        raise VssError(Code.E_INVALIDARG, f"{message}; restore it without rolling forward, or another backup")
    return {"restore_command": command, **_target(component, log)}


def _target(component: Component, log: dict[str, str]) -> dict[str, str]:
    if component.roll_forward == RollForward.ALL:
        return {"recovery_target_timeline": "latest"}
    if component.roll_forward == RollForward.PARTIAL:
        point, _, timeline = component.roll_forward_point.partition(" timeline ")
        goal = {"recovery_target_time": point}
    else:
        goal, timeline = {"recovery_target_name": log["restore_point"]}, ""
    timeline = timeline.strip() or log.get("timeline", "latest")
    return {**goal, "recovery_target_timeline": timeline, "recovery_target_action": "promote"}


def _restore_command(settings: ClusterSettings, log: dict[str, str]) -> str:
    """The configured one, else to copy out of the archive; that of a log backup is where it was put back."""
    archive = settings.archive_directory or log.get("archive", "")
    if settings.restore_command or not archive:
        return settings.restore_command
    return f'cp {shlex.quote(archive.replace("%", "%%"))}/%f "%p"'


def facts_of(component: Component) -> dict[str, str]:
    """What the writer left in the backup's metadata."""
    try:
        found = json.loads(component.backup_metadata)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        message = f"{path} of the lost server cannot be removed ({error.strerror}); remove it"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error


def _quoted(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise VssError(Code.E_INVALIDARG, f"{value!r} has a line break, which a server's setting cannot hold")
    return value.replace("\\", "\\\\").replace("'", "''")
