"""The SQLite writer with hundreds of databases, found by pattern, and with writers that hold long transactions."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from shadowset.vss.codes import Code
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, Level, WriterEvent
from shadowset.writers.naming import component_identity
from shadowset.writers.sqlite.discovery import find_databases
from shadowset.writers.sqlite.holders import Holder, write_lock_holders

E = WriterEvent
MAIN = "shadowset.writers.sqlite.main"
MANY = 400
HOLDER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN IMMEDIATE")
c.execute("INSERT INTO t VALUES (1)")
print("held", flush=True)
sys.stdin.readline()
c.execute("COMMIT")
print("done", flush=True)
sys.stdin.readline()
"""


def make(path: Path, mode: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    return path


def chosen(*paths: Path) -> list[Component]:
    return [Component(ComponentType.DATABASE, *component_identity(str(path))) for path in paths]


def test_hundreds_of_databases_are_held_at_once(processes: Any, coordinator: Any, tmp_path: Path) -> None:
    """More than the usual limit of open files lets a process hold; half of them with a log that is written to."""
    paths = [
        make(tmp_path / f"d{number % 7}" / f"{number}.db", ("wal", "delete")[number % 2]) for number in range(MANY)
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        processes.start("-m", MAIN, f"{tmp_path}/**/*.db")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    side = coordinator.writer()
    assert len(side.ok(E.IDENTIFY).metadata.components) == MANY
    side.ok(E.PREPARE_BACKUP, components=chosen(*paths))
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE, level=Level.BACK_END)
    probe = (
        "import sqlite3, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        sqlite3.connect(path, timeout=0).execute('BEGIN IMMEDIATE')\n"
        "    except sqlite3.OperationalError: print(path)\n"
    )
    held = processes.run("-c", probe, *map(str, paths)).stdout.splitlines()
    assert held == [str(path) for path in paths]
    # another requester asks meanwhile: looking at the files must not let go of them
    assert len(side.ok(E.IDENTIFY).metadata.components) == MANY
    assert processes.run("-c", probe, *map(str, paths)).stdout.splitlines() == held
    side.ok(E.THAW)
    assert processes.run("-c", probe, *map(str, paths)).stdout == ""


def test_patterns_are_looked_at_anew_and_take_databases_only(processes: Any, coordinator: Any, tmp_path: Path) -> None:
    first = make(tmp_path / "a" / "first", "wal")
    for name, content in (("notes", b"text"), ("empty", b""), ("first-journal", b"SQLite format 3\x00")):
        (tmp_path / "a" / name).write_bytes(content)
    processes.start("-m", MAIN, f"{tmp_path}/**/*")
    side = coordinator.writer()

    def names() -> list[str]:
        return [component.name for component in side.ok(E.IDENTIFY).metadata.components]

    assert names() == ["first"]
    second = make(tmp_path / "deep" / "deeper" / "second", "delete")
    assert names() == ["first", "second"]
    first.unlink()
    assert names() == ["second"]
    answer = side.ask(E.PREPARE_BACKUP, components=chosen(first))
    assert answer.veto and str(first) in answer.message
    side.ok(E.PREPARE_BACKUP, components=chosen(second))


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_long_transaction_is_waited_for_and_then_named(
    processes: Any, coordinator: Any, tmp_path: Path, mode: str
) -> None:
    free, busy = make(tmp_path / "free.db", mode), make(tmp_path / "busy.db", mode)
    processes.start("-m", MAIN, "--busy-timeout-ms", "60000", str(free), str(busy))
    side = coordinator.writer()
    side.ok(E.PREPARE_BACKUP, components=chosen(free, busy))
    side.ok(E.PREPARE_SNAPSHOT)
    holder = processes.start("-c", HOLDER, str(busy), stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    begun = time.monotonic()
    answer = side.ask(E.FREEZE, level=Level.BACK_END, deadline_ms=2000)
    assert time.monotonic() - begun >= 0.9, "half of the time for freeze is waited"
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_RETRYABLE)
    name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
    assert f"the database {busy} is busy" in answer.message
    assert f"try again when process {holder.pid} ({name}) is done" in answer.message
    side.ok(E.ABORT)
    side.ok(E.PREPARE_BACKUP, components=chosen(free, busy))
    side.ok(E.PREPARE_SNAPSHOT)
    waiting = side.post(E.FREEZE, level=Level.BACK_END)
    time.sleep(0.2)
    assert side.replies.empty(), "a transaction that ends in time is waited for"
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "done\n"
    answer = side.reply(waiting)
    assert (answer.code, answer.veto) == (0, False), answer.message
    side.ok(E.THAW)
    holder.kill()


def test_lines_of_the_list_of_locks(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "delete")
    status = path.stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    lines = [
        f"1: POSIX  ADVISORY  WRITE 999999 {place} 1073741825 1073741825",
        f"2: POSIX  ADVISORY  READ 999998 {place} 1073741826 1073742335",
        f"3: POSIX  ADVISORY  WRITE 999997 {place} 1073741826 1073742335",
        f"4: POSIX  ADVISORY  WRITE {os.getpid()} {place} 0 EOF",
        f"5: POSIX  ADVISORY  WRITE 999996 {place} 0 EOF",
        f"6: FLOCK  ADVISORY  WRITE 999995 {place} 0 EOF",
        "7: -> POSIX ADVISORY WRITE 1 x 0 0",
        "rubbish",
    ]
    assert write_lock_holders(str(path), lines) == [Holder(999999, ""), Holder(999996, "")]
    assert write_lock_holders(str(tmp_path / "none.db"), lines) == []


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    assert find_databases([f"{tmp_path}/text", f"{tmp_path}/none"], ()) == [f"{tmp_path}/text"]
    assert find_databases([f"{tmp_path}/t*"], ()) == []
