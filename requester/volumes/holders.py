"""Which processes use a file system, so that a refusal can name them."""

from __future__ import annotations

import os

MOST_NAMED = 5


def holders_of(device: int) -> list[str]:
    """``name (pid)`` of each process with an open file, directory or mapping on the file system of number ``device``.

    Processes that may not be looked at are left out.
    """
    own = os.getpid()
    found = []
    for entry in sorted((entry for entry in os.listdir("/proc") if entry.isdecimal()), key=int):
        if int(entry) != own and _uses(f"/proc/{entry}", device):
            found.append(f"{_name(entry)} ({entry})")
    return found


def sentence(holders: list[str]) -> str:
    """They, a few of them by name."""
    more = len(holders) - MOST_NAMED
    return ", ".join(holders[:MOST_NAMED]) + (f" and {more} others" if more > 0 else "")


def _uses(process: str, device: int) -> bool:
    links = [f"{process}/cwd", f"{process}/root", f"{process}/exe"]
    for directory in ("fd", "map_files"):
        try:
            links += [f"{process}/{directory}/{name}" for name in os.listdir(f"{process}/{directory}")]
        except OSError:
            continue
    return any(_is_on(link, device) for link in links)


def _is_on(link: str, device: int) -> bool:
    try:
        return os.stat(link).st_dev == device
    except OSError:
        return False


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "a process"
