"""``shadowset selftest``: it holds here, and it would tell if it did not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shadowset.requester.selftest import load
from shadowset.requester.selftest.checks import SelfTest
from shadowset.requester.stage import Stage, StageError


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
