"""All applications at once, with their writers and their load."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

from applications import Application, GroongaServer, MariaDbServer, PostgreSql, RedisServer
from embedded import Farm, Sqlite, Tantivy, Xapian
from load import Load
from rounds import label

EVERY: tuple[type[Application], ...] = (
    PostgreSql, MariaDbServer, RedisServer, Sqlite, GroongaServer, Xapian, Tantivy, Farm
)  # fmt: skip
VOLUMES = (("data", "ext4", 2 << 30), ("files", "ext4", 256 << 20))


class Fleet:
    """All applications that can be had here, with their writers and load. The volumes are ``VOLUMES``."""

    def __init__(
        self, chain: Any, wait_until: Callable[..., Any], kinds: tuple[type[Application], ...] = EVERY
    ) -> None:
        self.chain, self.wait_until = chain, wait_until
        self.top = tempfile.mkdtemp(prefix="ss-fleet-", dir="/tmp")
        os.chmod(self.top, 0o755)
        self.applications = [kind(chain, self.top) for kind in kinds if not kind.missing()]
        self.left_out = {kind.name: kind.missing() for kind in kinds if kind.missing()}
        self.loads: dict[str, Load] = {}
        self.writers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for each in self.applications:
            each.start()
            self.start_writer(each)
        self.wait_for_writers()
        self.load()

    def start_writer(self, application: Application) -> None:
        self.writers[application.name] = self.chain.start(*application.writer())

    def wait_for_writers(self) -> None:
        wanted = {name for each in self.applications for name in each.writer_names}
        self.wait_until("all writers", lambda: wanted <= self.connected())

    def connected(self) -> set[str]:
        return {label(entry["name"], entry) for entry in self.chain.cli("writers") if entry["connected"]}

    def load(self) -> None:
        self.loads = {each.name: Load(each.name, each.put, each.numbers()) for each in self.applications}
        self.wait_for_more()

    def wait_for_more(self) -> dict[str, int]:
        return {name: load.wait_for_more() for name, load in self.loads.items()}

    def stop_load(self) -> None:
        for load in self.loads.values():
            load.stop()

    def close(self) -> None:
        for load in self.loads.values():
            load.leave()
        for each in self.applications:
            with contextlib.suppress(Exception):
                each.kill()
        shutil.rmtree(self.top, ignore_errors=True)


def check_numbers(name: str, numbers: list[int], before: int, after: int) -> None:
    """The invariant."""
    gaps = sorted(set(range(len(numbers))) - set(numbers))
    assert not gaps, f"{name} has gaps: {gaps[:5]}"
    assert before < len(numbers) <= after + 2, f"{name} has {len(numbers)} numbers, not {before + 1} to {after + 2}"
