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


@pytest.mark.parametrize(("points", "files"), [("5", "20"), pytest.param("0", "64", marks=pytest.mark.long)])
def test_power_is_lost(prove: Any, points: str, files: str) -> None:
    """At some of the points at which a disk was told to remember, or at all of them."""
    prove("power_loss.py", points, files, modules=("nbd", "loop", "dm-mod", "dm-log-writes"))


@pytest.mark.parametrize("cases", [SHORT, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"])
def test_disks_fail(prove: Any, cases: tuple[str, ...]) -> None:
    prove("flakey.py", *cases, modules=("nbd", "loop", "dm-mod", "dm-flakey"))
