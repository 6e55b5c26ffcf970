"""Telling a process from a later one with the same number."""

from __future__ import annotations


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is none or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
