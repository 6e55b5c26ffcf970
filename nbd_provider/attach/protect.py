"""Keeps a server of local storage out of the memory trouble of those it serves. Everything here is best effort.

Such a process must not be swapped out, must not wait for its own device when it needs memory, and must not share a
memory limit with the writers whose pages it cleans.
"""

from __future__ import annotations

from shadowset.nbd_provider.process import enter_group, harden


def protect(group: str) -> list[str]:
    """Applies everything to this process; ``group`` names its memory cgroup. Returns what was refused, for the log."""
    refused = harden(lock_future=True)
    refused += enter_group(group)
    return refused
