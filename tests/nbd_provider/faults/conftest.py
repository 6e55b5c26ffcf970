"""Makes the helpers of this folder importable, and lets the store work in small pieces."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowset.nbd_provider.store import copy_out, layout

sys.path.append(str(Path(__file__).parent))

LONG = int(os.environ.get("SHADOWSET_LONG_TESTS", "0"))
"""Minutes for each of the tests that can go on for as long as one likes, in place of their seconds."""


@pytest.fixture
def long() -> int:
    return LONG


@pytest.fixture
def memory_directory() -> Iterator[str]:
    """A directory in memory, since thousands of crash images are written and none needs a real disk."""
    directory = tempfile.mkdtemp(prefix="ss-fault-", dir="/dev/shm" if os.path.isdir("/dev/shm") else "/tmp")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 256 slots, so that tests fill several of them."""
    monkeypatch.setattr(layout, "SEGMENT_SLOTS", 256)
    monkeypatch.setattr(layout, "SEGMENT_DATA", 256 * layout.SLOT_RECORD_SIZE)
    monkeypatch.setattr(copy_out, "BATCH_CHUNKS", 40)
    monkeypatch.setattr(copy_out, "GROWTH_SLOTS", 16)
