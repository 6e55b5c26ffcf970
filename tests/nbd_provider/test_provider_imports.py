"""What serves a volume locks its memory, so it imports nothing that it never uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "ssl", "_hashlib", "hashlib", "pyroute2", "subprocess", "json", "xml", "multiprocessing", "urllib"}


@pytest.mark.parametrize(
    ("module", "also"),
    [
        ("shadowset.nbd_provider.main", set()),
        ("shadowset.nbd_provider.attach.nbd_way", {"json"}),
    ],
)
def test_only_what_is_used_is_imported(module: str, also: set[str]) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert module in found
    assert not (HEAVY - also) & set(found)
