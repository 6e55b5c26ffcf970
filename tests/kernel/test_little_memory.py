"""A provider beside the writers of its own device, with next to no memory for both."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(0)]

MIB = 1 << 20


@pytest.mark.parametrize(
    ("count", "rounds", "dirty"),
    [(32, 1, 2), pytest.param(128, 10, 2, marks=pytest.mark.long), pytest.param(128, 10, 0, marks=pytest.mark.long)],
)
def test_dirty_pages_are_cleaned_by_a_provider_in_the_same_memory(
    uml: Any, prove: Any, count: int, rounds: int, dirty: int
) -> None:
    if not uml.fixed_addresses():
        pytest.skip("the host allows no fixed addresses (setarch -R), so the guest's memory would differ each time")
    disks = (count + 112) * MIB, (count * rounds * 5 // 4 + 112) * MIB  # a file system takes part of it for itself
    arguments = str(count), str(rounds), str(dirty)
    prove("memory.py", *arguments, modules=("nbd nbds_max=1",), memory="64M", disks=disks)
