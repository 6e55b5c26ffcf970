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
from rounds import Row, label, row

EVERY: tuple[type[Application], ...] = (
    PostgreSql, MariaDbServer, RedisServer, Sqlite, GroongaServer, Xapian, Tantivy, Farm
)  # fmt: skip
VOLUMES = (("data", "ext4", 2 << 30), ("files", "ext4", 256 << 20))


class Fleet:
    """All applications that can be had here, with their writers and load, on two volumes."""

    def __init__(
        self, chain: Any, wait_until: Callable[..., Any], kinds: tuple[type[Application], ...] = EVERY
    ) -> None:
        self.chain, self.wait_until = chain, wait_until
        if not chain.places:
            chain.add_volumes(VOLUMES)
        for directory in (chain.directory, *chain.places.values()):
            os.chmod(directory, 0o755)
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


def a_round(fleet: Fleet, number: int) -> list[Row]:
    """Backs everything up under load, destroys it, restores it, and sees that all is there; rows for the table."""
    chain, backup = fleet.chain, f"{fleet.chain.directory}/backup-{number}"
    before = fleet.wait_for_more()
    for load in fleet.loads.values():
        load.longest = 0.0
    record = chain.cli("create", *chain.places)
    done = chain.cli("backup", backup)
    assert all(entry["succeeded"] for entry in done["components"]), done
    after = fleet.wait_for_more()
    fleet.stop_load()
    for each in fleet.applications:
        each.destroy()
    restored = chain.cli("restore", backup)
    assert restored["succeeded"], restored
    rows = []
    for each in fleet.applications:
        count = verified(each, before[each.name], after[each.name])
        rows.append(row(record, done, each.writer_names, each.name, fleet.loads[each.name].longest, count))
    chain.cli("delete", record["set_id"])
    shutil.rmtree(backup)
    return rows


def verified(application: Application, before: int, after: int) -> int:
    """Checks a restored application, and leaves it running; how many numbers it has."""
    application.start()
    numbers = application.numbers()
    check_numbers(application.name, numbers, before, after)
    application.check()
    application.start()
    return len(numbers)
