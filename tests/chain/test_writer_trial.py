"""``shadowset writers test``: one writer frozen and thawed, by itself, and nothing left of it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tomllib
from pathlib import Path
from typing import Any

import pytest

from shadowset.daemon.config import limit_options
from shadowset.vss.paths import Paths


def test_one_writer_is_frozen_and_thawed_alone(chain: Any, database: str, wait_until: Any) -> None:
    chain.module("shadowset.writers.sqlite.main", "--name", "idle", f"{chain.directory}/none*.db")
    wait_until("both writers", lambda: len(chain.cli("writers")) == 2)
    (busy,) = [entry["instance_id"] for entry in chain.cli("writers") if not entry["instance_name"]]
    component = database[1:].replace("/", "\\")

    trial = chain.cli("writers", "test", busy)
    assert [entry["phase"] for entry in trial["phases"]] == ["prepare-snapshot", "freeze", "thaw", "post-snapshot"]
    assert (trial["volumes"], trial["components"], trial["failure"]["code"]) == (["one"], [component], "S_OK")
    assert 0 < trial["frozen_ms"] < trial["limit_ms"]
    assert chain.cli("list") == []
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as connection:
        connection.execute("insert into t values(2)")
        connection.commit()

    shown = {each["instance_name"]: (each["components"], each["last_frozen_ms"] > 0) for each in chain.cli("writers")}
    assert shown == {"": (1, True), "idle": (-1, False)}
    told = chain.raw("writers", "--components").stdout
    assert "nothing to protect: check its configuration" in told
    assert component in told
    documents = chain.cli("writers", "--components")
    assert [each["icon"] for document in documents for each in document["components"]] == [""]
    assert {entry["components"] for entry in chain.cli("writers")} == {0, 1}
    assert "none" in chain.raw("writers").stdout

    assert "it can be frozen and thawed" in chain.raw("writers", "test", busy).stdout
    for name, problem in (
        ("idle", "has nothing to protect"),
        ("Nobody", "those that run: SQLite Writer"),
        ("SQLite Writer", "several writers are named SQLite Writer"),
    ):
        done = chain.raw("writers", "test", name)
        assert (done.returncode, problem in done.stderr) == (1, True), done.stderr

    last = {each["instance_name"]: each["last_frozen_ms"] for each in chain.cli("writers")}
    chain.daemon.terminate()
    chain.daemon.wait(20)
    chain.start_daemon()  # it knows what was, before anybody is frozen again
    wait_until("both writers", lambda: len([each for each in chain.cli("writers") if each["connected"]]) == 2)
    again = {each["instance_name"]: each["last_frozen_ms"] for each in chain.cli("writers")}
    assert again == pytest.approx(last, abs=0.001)


def test_a_freeze_window_is_set_without_a_restart(chain: Any, wait_until: Any, tmp_path: Path) -> None:
    os.makedirs(tmp_path / "etc")
    chain.environment["SHADOWSET_CONFIG_DIR"] = str(tmp_path / "etc")  # of the command; the coordinator has its own
    chain.module("shadowset.writers.sqlite.main", f"{chain.directory}/none*.db")
    wait_until("the writer", lambda: chain.cli("writers"))
    (before,) = chain.cli("writers")
    (after,) = chain.cli("writers", "window", "SQLite Writer", "90s", "--keep")
    assert (before["freeze_window_ms"], after["freeze_window_ms"]) == (60_000, 90_000)
    (file,) = (tmp_path / "etc" / "shadowsetd.d").iterdir()
    assert tomllib.loads(file.read_text()) == {"writer-window": {before["writer_id"]: 90_000}}
    told = limit_options(Paths(config=str(tmp_path / "etc")))
    assert told == ([], [f"{before['writer_id']}=90000"])  # the coordinator would read it so
    (again,) = chain.cli("writers", "window", "SQLite Writer", "0s", "--keep")
    assert again["freeze_window_ms"] == 60_000
    assert tomllib.loads(file.read_text()) == {"writer-window": {}}
    assert chain.raw("writers", "window", "Nobody", "1s").returncode == 1


def test_a_writer_that_refuses_says_why(chain: Any, wait_until: Any) -> None:
    chain.add_volumes((("one", "ext4", 64 << 20),))
    hook, config = Path(chain.directory) / "hook", Path(chain.directory) / "hooks.toml"
    hook.write_text("#!/bin/sh\necho no disk; exit 3\n")
    hook.chmod(0o755)
    files = chain.places["one"]
    config.write_text(f'[[hook]]\nkind = "command"\nfreeze = ["{hook}"]\nthaw = ["{hook}"]\nfiles = ["{files}"]\n')
    chain.module("shadowset.writers.hooks.main", "--config", str(config))
    wait_until("the writer", lambda: chain.cli("writers"))
    done = chain.raw("writers", "test", "Hook Script Writer")
    assert done.returncode == 1
    assert "no disk" in done.stderr
    chain.check_writable()
