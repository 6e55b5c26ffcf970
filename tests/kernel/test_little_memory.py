"""A provider beside the writers of its own device, with next to no memory for both."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(0)]

MIB = 1 << 20


@pytest.mark.parametrize(("left", "count"), [("84", 48), pytest.param("80", 256, marks=pytest.mark.long)])
def test_dirty_pages_are_cleaned_by_a_provider_in_the_same_memory(prove: Any, left: str, count: int) -> None:
    disk = (count + 112) * MIB
    prove("memory.py", left, str(count), modules=("nbd",), memory="112M", disks=(disk, disk))
