"""A provider beside the writers of its own device, with next to no memory for both."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(0)]

MIB = 1 << 20


def test_dirty_pages_are_cleaned_by_a_provider_in_the_same_memory(prove: Any, long: bool) -> None:
    left, count, disk = ("80", "256", 400 * MIB) if long else ("84", "48", 160 * MIB)
    prove("memory.py", left, count, modules=("nbd",), memory="112M", disks=(disk, disk))
