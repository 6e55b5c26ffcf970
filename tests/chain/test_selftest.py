"""``shadowset selftest``: it holds here, and it would tell if it did not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.abandoned import Abandoned, find_abandoned, locked, processes
from shadowset.requester.doctor.host import Host
from shadowset.requester.selftest import load
from shadowset.requester.selftest.checks import SelfTest
from shadowset.requester.stage import MARK, Stage, StageError


@pytest.mark.host
@pytest.mark.vss(141)
def test_all_checks_hold_here() -> None:
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    command = [sys.executable, "-m", "shadowset.requester.cli", "selftest", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    outcomes = json.loads(done.stdout)
    assert [each["trouble"] for each in outcomes] == [""] * 6, outcomes
    assert (done.returncode, done.stderr) == (0, "")


def test_what_never_was_is_seen(tmp_path: Path) -> None:
    for first, second, wrong in ((7, 7, ""), (7, 6, ""), (7, 5, "never was"), (6, 7, "never was")):
        (tmp_path / "first").write_bytes(load.block_of(first))
        (tmp_path / "second").write_bytes(load.block_of(second))
        assert wrong in load.is_instant(str(tmp_path)) and bool(wrong) == bool(load.is_instant(str(tmp_path)))
    (tmp_path / "second").write_bytes(load.block_of(7)[:2048] + load.block_of(6)[2048:])
    assert "torn" in load.is_instant(str(tmp_path))
    (tmp_path / "first").unlink()
    assert "first cannot be read" in load.is_instant(str(tmp_path))


def test_an_application_that_saw_an_error_fails_its_check(tmp_path: Path) -> None:
    stage = Stage(str(tmp_path))
    try:
        test = SelfTest(stage)
        os.mkdir(test._place)
        Path(test._place, "first").write_bytes(load.block_of(1))
        test._load = stage.start("load", sys.executable, "-c", "raise SystemExit(1)")
        with pytest.raises(StageError, match="the application got an error"):
            test._require_load()
    finally:
        assert stage.close() == []


@pytest.mark.host
def test_what_a_killed_one_left_is_found_and_taken_away() -> None:
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    top = tempfile.mkdtemp(prefix="ss-self-", dir="/var/tmp")
    command = [sys.executable, "-m", "shadowset.requester.cli", "selftest"]
    running = subprocess.Popen([*command, "--directory", top], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        left = until(lambda: next((each for each in stages(top) if f" {each.directory}/" in mount_table()), None))
        assert left not in find_abandoned(), "it lives"
    finally:
        running.kill()
        running.wait()
    assert left in find_abandoned() and left.directory in Host().abandoned()
    done = subprocess.run([*command, "--clean"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done
    assert f"has left {left.directory}, which is taken away now" in done.stderr
    os.rmdir(top)
    assert not os.path.exists(left.runtime) and left.runtime not in mount_table() and top not in mount_table()
    until(lambda: not processes(left.runtime))
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [backing for backing in loops if left.runtime in backing or top in backing]


def stages(top: str) -> list[Abandoned]:
    """Those whose process lives."""
    marks = [mark for mark in Path("/run").glob(f"shadowset-*/{MARK}") if locked(str(mark))]
    return [Abandoned(mark.read_text(), str(mark.parent)) for mark in marks if mark.read_text().startswith(top)]


def mount_table() -> str:
    return Path("/proc/mounts").read_text()


def until(ready: Callable[[], Any]) -> Any:
    end = time.monotonic() + 120
    while not (found := ready()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found
