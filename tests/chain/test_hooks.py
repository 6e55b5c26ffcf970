"""Scripts that a host has already, unchanged, over real volumes: what they bring to rest is in the copies so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from load import Load
from rounds import keep, row, table

pytestmark = pytest.mark.host
# Takes each number into memory, and writes both files at its leisure: only when it is told to, they agree.
APPLICATION = """
import os, sys, time
one, two, pause = sys.argv[1:]
number = 0
def write(path):
    with open(path + ".new", "w") as file:
        file.write(str(number))
    os.replace(path + ".new", path)
while True:
    if os.path.exists(pause):
        write(one); write(two)
        open(pause + "d", "w").close()
        while os.path.exists(pause):
            time.sleep(0.01)
        os.unlink(pause + "d")
    number += 1
    if number % 7 == 0:
        write(one)
    if number % 5 == 0:
        write(two)
    time.sleep(0.01)
"""
SCRIPT = """#!/bin/sh
echo "$1" >>{journal}
case $1 in
freeze) touch {pause}; while [ ! -e {pause}d ]; do sleep 0.02; done; test ! -e {refuse} || {{ echo no; exit 3; }} ;;
thaw) rm -f {pause} ;;
esac
"""


class App:
    """The application with a file on each volume, and the script that brings it to rest."""

    def __init__(self, chain: Any, required: bool = True) -> None:
        self.chain, top = chain, chain.directory
        self.journal, self.refuse, pause = f"{top}/journal", f"{top}/refuse", f"{top}/pause"
        self.files = [f"{place}/number" for place in chain.places.values()]
        scripts = Path(top, "fsfreeze-hook.d")
        scripts.mkdir(0o755)
        script = scripts / "app.sh"
        script.write_text(SCRIPT.format(journal=self.journal, pause=pause, refuse=self.refuse))
        script.chmod(0o755)
        files = ", ".join(f'"{place}"' for place in chain.places.values())
        Path(top, "hooks.toml").write_text(
            f'[[hook]]\nkind = "qemu"\nname = "app"\npath = "{scripts}"\nfiles = [{files}]\n'
            f"required = {str(required).lower()}\n"
        )
        self._command = [sys.executable, "-c", APPLICATION, *self.files, pause]
        self.start()
        chain.module("shadowset.writers.hooks.main", "--config", f"{top}/hooks.toml")

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)

    def calls(self) -> list[str]:
        return Path(self.journal).read_text().split() if Path(self.journal).exists() else []

    def number(self) -> int:
        return int(Path(self.files[0]).read_text()) if Path(self.files[0]).exists() else 0

    def wait_for_numbers(self, count: int = 20) -> None:
        before, end = self.number(), time.monotonic() + 60
        while self.number() < before + count:
            assert self.process.poll() is None and time.monotonic() < end, "the application stands still"
            time.sleep(0.02)


@pytest.fixture
def app(volumes: Any, wait_until: Any, request: Any) -> Iterator[App]:
    """The parameter says whether a failed freeze is a veto."""
    made = App(volumes, getattr(request, "param", True))
    try:
        wait_until("the writer", lambda: [entry for entry in volumes.cli("writers") if entry["connected"]])
        made.wait_for_numbers()
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def test_what_scripts_bring_to_rest_agrees_in_every_copy(volumes: Any, app: App) -> None:
    for round_ in range(1, 4):
        record = volumes.cli("create", *volumes.places)
        assert app.calls() == ["freeze", "thaw"] * round_
        numbers = set()
        for each in record["snapshots"]:
            place = volumes.cli("mount", each["snapshot_id"])["path"]
            numbers.add(int(Path(place, "number").read_text()))
            volumes.cli("umount", each["snapshot_id"])
        assert len(numbers) == 1, numbers
        volumes.cli("delete", record["set_id"])
        app.wait_for_numbers()


def test_a_script_that_fails_vetoes_and_is_thawed(volumes: Any, app: App) -> None:
    Path(app.refuse).touch()
    told = volumes.raw("create", *volumes.places)
    assert told.returncode and "app.sh freeze ended with status 3 (no)" in told.stderr, told.stderr
    assert set(app.calls()) == {"freeze", "thaw"} and app.calls()[-1] == "thaw"
    app.wait_for_numbers()
    volumes.check_writable()
    Path(app.refuse).unlink()
    volumes.cli("create", *volumes.places)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_scripts_bring_to_rest_comes_back(volumes: Any, app: App, show: Any) -> None:
    load = Load("the application", lambda number: app.wait_for_numbers(1), [])
    record = volumes.cli("create", *volumes.places)
    before = app.number()
    done = volumes.cli("backup", f"{volumes.directory}/backup")
    assert all(entry["succeeded"] for entry in done["components"]), done
    app.wait_for_numbers()
    load.stop()
    after = app.number()
    app.process.kill()
    app.process.wait()
    for place in volumes.places.values():
        for name in os.listdir(place):
            path = f"{place}/{name}"
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    assert volumes.cli("restore", f"{volumes.directory}/backup")["succeeded"]
    (number,) = {int(Path(path).read_text()) for path in app.files}
    assert before <= number <= after
    rows = [row(record, done, ["Hook Script Writer"], "hook scripts", load.longest, number)]
    show(table(rows))
    keep("4-hooks", rows)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("app", [False], indirect=True)
def test_a_failure_that_is_allowed_is_told(volumes: Any, app: App) -> None:
    Path(app.refuse).touch()
    done = volumes.cli("backup", f"{volumes.directory}/backup")
    assert done["succeeded"] and all(entry["succeeded"] for entry in done["components"])
    (remark,) = done["remarks"]
    assert "component hooks\\app of writer Hook Script Writer: only crash-consistent: the hook " in remark
    assert "ended with status 3 (no)" in remark
    app.wait_for_numbers()
