"""Which cgroups account a process's memory, from the text of ``/proc/PID/cgroup``. Pure."""

from __future__ import annotations

CGROUPS = "/sys/fs/cgroup"


def memory_groups(text: str, unified: bool) -> list[str]:
    """Their directories; ``unified`` says whether version 2 is mounted at CGROUPS, and not version 1 below it."""
    found = []
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and unified:
            found.append(f"{CGROUPS}{path.rstrip('/')}")
        elif "memory" in controllers.split(","):
            found.append(f"{CGROUPS}/memory{path.rstrip('/')}")
    return found


def beside(directory: str, name: str) -> str:
    """A cgroup beside one; the root's lie below it."""
    parent = directory if directory in (CGROUPS, f"{CGROUPS}/memory") else directory.rpartition("/")[0]
    return f"{parent}/{name}"
