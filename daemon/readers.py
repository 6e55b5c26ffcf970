"""Who reads a file or directory just now, as the kernel shows it."""

from __future__ import annotations

import os

from shadowset.daemon.volume_checks import loops_on


def readers_of(path: str) -> list[str]:
    """Processes (by number and name) and loop devices that have this file, or something below this directory, open."""
    wanted = os.path.realpath(path)
    found = loops_on(wanted)
    for name in os.listdir("/proc"):
        if name.isdigit() and _opens(f"/proc/{name}/fd", wanted):
            found.append(f"process {name} ({_program(name)})")
    return found


def _program(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "ended"


def _opens(directory: str, wanted: str) -> bool:
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return False
    for each in descriptors:
        try:
            target = os.readlink(f"{directory}/{each}")
        except OSError:
            continue
        if target == wanted or target.startswith(f"{wanted}/"):
            return True
    return False
