"""Frozen means frozen: from freeze to thaw no byte of an application's files changes, as the live side sees them."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable

from applications import Application

STILL_SECONDS = 0.5
NOT_IN_COPIES = "-shm"  # memory that SQLite's processes share


def contents(application: Application) -> dict[str, int]:
    """Checksums of all files; of those that come and go meanwhile too."""
    found = {}
    for top in application.directories():
        for directory, _, names in os.walk(top):
            for name in names:
                path = f"{directory}/{name}"
                if not name.endswith(NOT_IN_COPIES):
                    try:
                        found[path] = zlib.crc32(application.content(path))
                    except FileNotFoundError:
                        continue
    return found


def changed(applications: Iterable[Application]) -> dict[str, list[str]]:
    """By the application's name, the files that change, come or go within a moment."""
    before = {each: contents(each) for each in applications}
    time.sleep(STILL_SECONDS)
    moved = {each.name: was.items() ^ contents(each).items() for each, was in before.items()}
    return {name: sorted(path for path, _ in files) for name, files in moved.items() if files}
