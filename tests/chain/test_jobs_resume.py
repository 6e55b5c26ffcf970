"""Jobs that are killed in the middle, and the runs that go on with them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BLOCKS = """
import importlib, os, sys, time
module, path, number, reached = sys.argv[1:5]
holder = importlib.import_module(module)
*above, name = path.split(".")
for each in above:
    holder = getattr(holder, each)
real, left = getattr(holder, name), int(number)
def blocking(*arguments, **named):
    global left
    left -= 1
    if left == 0:
        open(reached, "w").close()
        time.sleep(600)
    return real(*arguments, **named)
setattr(holder, name, blocking)
from shadowset.requester.cli import main
sys.exit(main(sys.argv[5:]))
"""
"""A command in a process that stops, for good, at a given call of a function of ours."""

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="not installed: qemu-utils")


@pytest.fixture
def jobs(chain: Any) -> Any:
    chain.environment["SHADOWSET_CONFIG_DIR"] = f"{chain.directory}/etc"
    os.makedirs(f"{chain.directory}/etc/jobs.d")
    os.makedirs(f"{chain.directory}/target")
    chain.target = f"{chain.directory}/target"

    def define(name: str, text: str) -> None:
        Path(f"{chain.directory}/etc/jobs.d/{name}.toml").write_text(text)

    chain.define = define
    return chain


@pytest.fixture
def kill_at(jobs: Any, wait_until: Any) -> Callable[..., None]:
    """Run a command and kill it at the given call of a function."""

    def kill(function: str, number: int, *command: str) -> None:
        module, _, path = function.partition(":")
        reached = f"{jobs.directory}/reached"
        Path(reached).unlink(missing_ok=True)
        process = jobs.start(sys.executable, "-c", BLOCKS, module, path, str(number), reached, *command)
        wait_until(
            f"call {number} of {function}", lambda: os.path.exists(reached) or process.poll() is not None, seconds=120
        )
        assert process.poll() is None, jobs.log()[-3000:]
        process.send_signal(signal.SIGKILL)
        process.wait()

    return kill


def versions_at(place: str) -> list[str]:
    return sorted(name for name in os.listdir(place) if "Z-" in name)


def fill(database: str, mebibytes: int) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("create table if not exists big(x)")
        connection.executemany("insert into big values(?)", [(os.urandom(1 << 20),)] * mebibytes)
        connection.commit()


@pytest.mark.vss(131)
def test_a_killed_job_is_gone_on_with(jobs: Any, database: str, kill_at: Callable[..., None], wait_until: Any) -> None:
    """In the middle of a large file: what is stored of it stays, the result is of the new instant and verifies."""
    jobs.define("nightly", f'target = "{jobs.target}"\n')
    lock = f"{jobs.paths.state}/jobs/{jobs.target.replace('/', '%2F')}.lock"
    fill(database, 20)
    kill_at("shadowset.requester.backup.copy:Fresh.write", 12, "job", "run", "nightly")
    (left,) = versions_at(jobs.target)
    (listed,) = jobs.cli("job", "list")
    assert listed["last"]["status"] == "interrupted"
    assert jobs.cli("job", "status", "nightly", status=1)[-1]["status"] == "interrupted"
    assert jobs.cli("job", "versions", "nightly") == []
    assert jobs.cli("job", "clear", "nightly", "--dry-run")["removed"] == [left]
    wait_until("its copies to go", lambda: jobs.cli("list") == [])
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("insert into t values (2)")
        connection.commit()
    with open(lock, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = jobs.raw("job", "run", "nightly")
        assert refused.returncode == 1 and "another run with the target" in refused.stderr
        assert jobs.cli("job", "list")[0]["last"]["status"] == "running"
    run = jobs.cli("job", "run", "nightly")
    assert run["status"] == "succeeded" and run["resumed"] == left and "goes on with it" in run["sentences"][0]
    assert run["stored_bytes"] < 12 << 20 < 20 << 20 < run["bytes"], "what was written before is not written again"
    assert versions_at(jobs.target) == [run["version"]]
    assert jobs.cli("verify", f"{jobs.target}/{run['version']}")["differences"] == []
    assert [each["status"] for each in jobs.cli("job", "status", "nightly")] == ["interrupted", "succeeded"]
    assert "succeeded, resumed" in jobs.raw("job", "status", "nightly").stdout
    assert not os.path.exists(f"{jobs.target}/{run['version']}/UNFINISHED")
    kill_at("shadowset.requester.backup.copy:Fresh.write", 6, "backup", f"{jobs.target}/monday")
    assert jobs.raw("verify", f"{jobs.target}/monday").returncode != 0
    report = jobs.cli("backup", f"{jobs.target}/monday")
    assert report["succeeded"] and report["resumed"] and report["bytes"] - report["stored_bytes"] > 4 << 20
    assert "is not empty" in jobs.raw("backup", f"{jobs.target}/monday").stderr
    assert jobs.cli("verify", f"{jobs.target}/monday")["differences"] == []


def same(jobs: Any, copy: dict[str, Any], version: str) -> None:
    """An image is its copy, byte for byte."""
    image = f"{jobs.target}/{version}/{copy['original_volume']}.qcow2"
    command = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", copy["device_object"], image]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


@needs_qemu
@pytest.mark.vss(131)
def test_killed_images_are_gone_on_with_from_the_same_copies(
    volumes: Any, jobs: Any, kill_at: Callable[..., None]
) -> None:
    """Killed in the second part of the larger volume; what is written meanwhile is not in it."""
    jobs.define("whole", f'target = "images:{jobs.target}"\nfull_every = 9\n')
    for place in volumes.places.values():
        Path(f"{place}/file").write_bytes(b"then" * 100_000)
    kill_at("shadowset.requester.jobs.qcow2:_run", 5, "job", "run", "whole")
    (left,) = versions_at(jobs.target)
    copies = jobs.cli("list")
    assert {copy["priority"] for copy in copies} == {255} and len(copies) == 2
    assert jobs.cli("job", "versions", "whole") == [] and not os.path.exists(f"{jobs.target}/{left}/images.json")
    for place in volumes.places.values():
        Path(f"{place}/file").write_bytes(b"later" * 100_000)
    run = jobs.cli("job", "run", "whole")
    assert run["status"] == "succeeded" and run["resumed"] == run["version"] == left and run["kind"] == "full"
    after = jobs.cli("list")
    assert sorted(copy["snapshot_id"] for copy in after) == sorted(copy["snapshot_id"] for copy in copies)
    assert {copy["priority"] for copy in after} == {128}
    for copy in copies:
        same(jobs, copy, left)
    assert sorted(os.listdir(f"{jobs.target}/{left}")) == ["images.json", "one.qcow2", "two.qcow2"]
    kill_at("shadowset.requester.jobs.qcow2:_follow", 1, "job", "run", "whole")
    unfinished = versions_at(jobs.target)[-1]
    assert len(jobs.cli("list")) == 4, "those of the version before, and those of the unfinished one"
    run = jobs.cli("job", "run", "whole")
    assert (run["status"], run["kind"], run["resumed"]) == ("succeeded", "incremental", unfinished)
    copies = jobs.cli("list")
    assert len(copies) == 2
    for copy in copies:
        same(jobs, copy, unfinished)


@pytest.mark.long
@needs_qemu
def test_a_killed_image_job_leaves_nothing_that_is_not_gone_on_with(
    database: str, jobs: Any, kill_at: Callable[..., None]
) -> None:
    """Too old, or without known copies: the next run removes it with its copies and begins anew."""
    jobs.define("whole", f'target = "images:{jobs.target}"\nresume_within = "0s"\n')
    run: dict[str, Any] = {"version": ""}
    for number, function in enumerate(
        (
            "shadowset.requester.backup_components:BackupComponents.prepare_for_backup",
            "shadowset.requester.jobs.image_begun:protect",
            "shadowset.requester.jobs.qcow2:write_whole",
        )
    ):
        kill_at(function, 1, "job", "run", "whole")
        (left,) = set(versions_at(jobs.target)) - {run["version"]}
        if number != 1:
            time.sleep(1)
            jobs.define("whole", f'target = "images:{jobs.target}"\nresume_within = "0s"\n[keep]\nlast = 1\n')
            run = jobs.cli("job", "run", "whole")
            assert run["status"] == "succeeded" and run["resumed"] == "", run
            assert f"{left} was not finished" in run["sentences"][0]
        else:
            assert len(jobs.cli("list")) == 2
            assert jobs.cli("job", "clear", "whole")["removed"] == [left]
        assert versions_at(jobs.target) == [run["version"]] and len(jobs.cli("list")) == 1
