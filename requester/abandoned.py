"""What a selftest or a demonstration leaves when it is killed: found by its unlocked mark, and taken away."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shadowset.requester.ending import end_all
from shadowset.requester.stage import MARK, Stage, StageError, module, mounted_below

RUN = "/run"
PREFIX = "shadowset-"
SERVE = ("shadowset.daemon", "shadowset.nbd_provider", "shadowset.fuse_mount")


@dataclass(frozen=True)
class Abandoned:
    """The directories of a run whose process is gone."""

    directory: str
    runtime: str


def find_abandoned(run: str = RUN) -> list[Abandoned]:
    """All of this host; none of somebody who may not look there."""
    found = []
    for name in sorted(os.listdir(run)):
        mark = f"{run}/{name}/{MARK}"
        if name.startswith(PREFIX) and os.path.isfile(mark) and not locked(mark):
            found.append(Abandoned(Path(mark).read_text(), f"{run}/{name}"))
    return found


def locked(mark: str) -> bool:
    """Whether the process that made it lives; so, too, where that cannot be seen."""
    try:
        with open(mark, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def clear(left: Abandoned) -> list[str]:
    """End its processes, unmount, remove its volumes and directories; what could not be done."""
    stage = Stage.found(left.directory, left.runtime)
    try:
        coordinators = _coordinators(stage)  # who waits for a provider that is gone, too, does not end without one
        end_all(pid for pid, command in processes(left.runtime) if not any(word in command for word in SERVE))
        for place in reversed(mounted_below(left.directory)):
            stage.run("umount", place)
        for volume in stage.shadowset("volume", "list"):
            stage.run(*module("shadowset.requester.cli"), "volume", "remove", volume["name"], "--force")
        end_all(coordinators)
    except (StageError, OSError, subprocess.SubprocessError) as error:
        return [f"could not take away {left.directory}, which a killed run has left: {error}"]
    end_all(pid for pid, command in processes(left.runtime) if "shadowset.fuse_mount" not in command)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    problems = stage.close()
    for number, handler in before:
        signal.signal(number, handler)
    return problems


def _coordinators(stage: Stage) -> list[int]:
    """Of that installation: the one that still runs, or a new one, which starts the providers again."""
    coordinators = [pid for pid, command in processes(stage.runtime) if "shadowset.daemon.main" in command]
    if not coordinators:
        coordinators = [stage.start("coordinator", *module("shadowset.daemon.main")).pid]
    stage.wait("the coordinator to answer", stage.answers)
    return coordinators


def processes(runtime: str) -> list[tuple[int, str]]:
    """Number and command line of those that were started for an installation."""
    mine = f"SHADOWSET_RUNTIME_DIR={runtime}".encode()
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            if mine in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and pid != os.getpid():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((pid, command))
        except OSError:
            continue
    return found
