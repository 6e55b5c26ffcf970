"""What a machine and its disks can do to a volume and its copies: power that goes, disks that fail and forget."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(0)]

SHORT = ("origin:error-writes:ext4", "storage:error-writes:xfs")
LONG = (
    *("origin:error-writes:xfs", "origin:dead:ext4", "origin:dead:xfs"),
    *("storage:error-writes:ext4", "storage:dead:ext4", "stutter:error-writes:ext4", "stutter:dead:xfs"),
    *("both:drop-writes:ext4", "both:drop-writes:xfs", "forgetful:drop-writes:ext4", "forgetful:drop-writes:xfs"),
)


def test_power_is_lost(prove: Any, long: bool) -> None:
    points, files = ("0", "64") if long else ("5", "20")
    prove("power_loss.py", points, files, modules=("nbd", "loop", "dm-mod", "dm-log-writes"))


def test_disks_fail(prove: Any, long: bool) -> None:
    prove("flakey.py", *SHORT, *(LONG if long else ()), modules=("nbd", "loop", "dm-mod", "dm-flakey"))
