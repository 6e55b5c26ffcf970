"""The QEMU writer with a real guest: Debian's kernel and guest agent under software emulation."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu_guest import Guest, count_in, make_data_disk, missing, unpack

from shadowset.vss.codes import Code
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, WriterEvent
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.qemu.processes import discover
from shadowset.writers.qemu.wire import Agent
from shadowset.writers.qemu.writer import LOGICAL_PATH

E = WriterEvent
SECONDS = 60.0
NAME = f"ss-{os.getpid()}"


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    if lacking := missing():
        pytest.skip(f"not installed: {lacking}")
    top = Path(tempfile.mkdtemp(prefix="ss-vm-", dir="/var/tmp"))
    runtime = tempfile.mkdtemp(prefix="ss-vm-", dir="/tmp")
    made = None
    try:
        make_data_disk(f"{top}/disk.img")
        made = Guest(*unpack(top), runtime, [f"file={top}/disk.img,format=raw"], NAME)
        made.start()
        made.wait_for_writes()
        yield made
    finally:
        if made is not None:
            made.end()
        shutil.rmtree(runtime, ignore_errors=True)
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def image(guest: Guest) -> str:
    return guest.disks[0].removeprefix("file=").partition(",")[0]


@pytest.fixture
def start(guest: Guest, processes: Any, coordinator: Any, tmp_path: Path) -> Callable[..., Any]:
    def begin(more: str = "", agent: bool = True, top: str = "") -> Any:
        config = tmp_path / "qemu.toml"
        line = f'agent = "{guest.agent}"\n' if agent else ""
        config.write_text(f'{top}\n[[guest]]\nname = "web"\nqmp = "{guest.qmp}"\n{line}seconds = 60.0\n{more}\n')
        process = processes.start("-m", "shadowset.writers.qemu.main", "--config", str(config))
        side = coordinator.writer()
        side.process = process
        return side

    return begin


def chosen() -> list[Component]:
    return [Component(ComponentType.FILEGROUP, LOGICAL_PATH, "web")]


def freeze(side: Any, **fields: Any) -> None:
    fields.setdefault("deadline_ms", int(SECONDS * 2000))
    side.ok(E.PREPARE_BACKUP, components=chosen(), **fields)
    side.ok(E.PREPARE_SNAPSHOT, **fields)
    side.ok(E.FREEZE, **fields)


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_file_systems_of_a_guest_are_frozen_from_within(
    start: Callable[..., Any], guest: Guest, image: str, tmp_path: Path
) -> None:
    side = start()
    (info,) = side.ok(E.IDENTIFY).metadata.components
    assert [(files.path, files.filespec) for files in info.files] == [os.path.split(image)]
    freeze(side)
    count, before = guest.count(), digest(image)
    time.sleep(1.5)
    assert (guest.count(), digest(image)) == (count, before)
    cut = tmp_path / "cut.img"
    shutil.copy(image, cut)
    side.ok(E.THAW)
    guest.wait_for_writes()
    assert count_in(str(cut)) in (count, count + 1)  # one may have been written and not told yet
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen()).components
    facts = json.loads(component.backup_metadata)
    assert (facts["method"], facts["frozen_file_systems"], facts["disks"][0]["place"]) == ("agent", 1, image)


def test_a_copy_without_a_freeze_would_need_its_journal(guest: Guest, image: str, tmp_path: Path) -> None:
    guest.wait_for_writes()
    shutil.copy(image, tmp_path / "cut.img")
    with pytest.raises(AssertionError, match="needs_recovery"):
        count_in(str(tmp_path / "cut.img"))


@pytest.mark.parametrize(
    "how", ["killed", *(pytest.param(how, marks=pytest.mark.long) for how in ("stopped", "coordinator lost"))]
)
def test_whoever_is_lost_the_guest_goes_on(start: Callable[..., Any], guest: Guest, how: str) -> None:
    side = start(top="freeze_timeout_ms = 5000" if how == "stopped" else "")
    freeze(side)
    pid = side.process.pid
    if how == "coordinator lost":
        side.drop()
    else:
        os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    try:
        guest.wait_for_writes()
    finally:
        if how == "stopped":
            os.kill(pid, signal.SIGCONT)
    if how == "stopped":
        answer = side.ask(E.THAW)
        assert answer.code in (Code.VSS_E_WRITERERROR_TIMEOUT, Code.VSS_E_WRITERERROR_RETRYABLE)  # as it noticed first


def test_a_guest_thawed_by_somebody_else_fails_the_set(start: Callable[..., Any], guest: Guest) -> None:
    side = start()
    freeze(side)
    with Agent(guest.agent, "web", time.monotonic() + SECONDS) as agent:
        assert agent.ask("guest-fsfreeze-thaw") == 1
    answer = side.ask(E.THAW)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_RETRYABLE, False)
    assert "thawed before the cut was over" in answer.message
    guest.wait_for_writes()


def test_a_guest_frozen_by_somebody_else_is_refused(start: Callable[..., Any], guest: Guest) -> None:
    side = start()
    side.ok(E.PREPARE_BACKUP, components=chosen())
    with Agent(guest.agent, "web", time.monotonic() + SECONDS) as agent:
        agent.ask("guest-fsfreeze-freeze")
    answer = side.ask(E.PREPARE_SNAPSHOT)
    assert answer.veto
    assert "frozen by somebody else" in answer.message
    side.ok(E.ABORT)
    with Agent(guest.agent, "web", time.monotonic() + SECONDS) as agent:
        assert agent.frozen()  # what others froze is theirs
        agent.ask("guest-fsfreeze-thaw")
    guest.wait_for_writes()


def test_chosen_mount_points(start: Callable[..., Any], guest: Guest) -> None:
    side = start('mount_points = ["/none"]')
    side.ok(E.PREPARE_BACKUP, components=chosen())
    side.ok(E.PREPARE_SNAPSHOT)
    answer = side.ask(E.FREEZE)
    assert answer.veto
    assert "no file system that can be frozen" in answer.message
    side.ok(E.ABORT)
    guest.wait_for_writes()


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_guest_without_an_agent_is_paused_where_that_is_allowed(
    start: Callable[..., Any], guest: Guest, killed: bool
) -> None:
    side = start('without_agent = "pause"', agent=False)
    freeze(side)
    assert guest.ask_qmp("query-status")["return"]["status"] == "paused"
    if killed:
        os.kill(side.process.pid, signal.SIGKILL)
    else:
        side.ok(E.THAW)
        (component,) = side.ok(E.POST_SNAPSHOT, components=chosen()).components
        facts = json.loads(component.backup_metadata)
        assert facts["method"] == "pause"
        assert "no agent channel" in facts["why"]
    guest.wait_for_writes()


def test_a_guest_without_an_agent_is_refused_where_nothing_is_said(start: Callable[..., Any]) -> None:
    side = start(agent=False)
    side.ok(E.PREPARE_BACKUP, components=chosen())
    answer = side.ask(E.PREPARE_SNAPSHOT)
    assert answer.veto
    assert 'set without_agent = "crash-consistent"' in answer.message


def test_a_disk_outside_the_set_is_named(start: Callable[..., Any], image: str) -> None:
    side = start()
    volumes = [EventVolume(name="v", mount_points=["/elsewhere"])]
    side.ok(E.PREPARE_BACKUP, components=chosen(), volumes=volumes)
    answer = side.ask(E.PREPARE_SNAPSHOT, volumes=volumes)
    assert answer.code == Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT
    assert image in answer.message
    side.ok(E.ABORT)


def test_sets_of_other_volumes_leave_the_guest_alone(start: Callable[..., Any], guest: Guest) -> None:
    side = start()
    fields = {"select_components": False, "volumes": [EventVolume(name="v", mount_points=["/elsewhere"])]}
    side.ok(E.PREPARE_BACKUP, **fields)
    side.ok(E.PREPARE_SNAPSHOT, **fields)
    side.ok(E.FREEZE, **fields)
    guest.wait_for_writes()
    side.ok(E.THAW, **fields)


def test_running_guests_are_found_by_their_processes(guest: Guest) -> None:
    (found,) = [each for each in discover() if each.name == NAME]
    assert (found.qmp, found.agent) == (guest.qmp, guest.agent)


def test_a_guest_that_is_on_is_not_restored_over(start: Callable[..., Any], guest: Guest) -> None:
    side = start()
    wanted = chosen()
    wanted[0].selected_for_restore = True
    answer = side.ask(E.PRE_RESTORE, components=wanted)
    assert answer.veto
    assert "the guest web is on" in answer.message
    assert subprocess.run(["kill", "-0", str(guest.process.pid if guest.process else 0)], check=False).returncode == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_rounds_with_a_kill_in_every_phase(
    start: Callable[..., Any], guest: Guest, image: str, tmp_path: Path
) -> None:
    rows = []
    events = (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE, E.THAW, E.POST_SNAPSHOT)
    for number in range(20):
        side, killed, times = start(), events[number // 2 % len(events)] if number % 2 else None, {}
        for event in events:
            began = time.monotonic()
            fields = {"components": chosen()} if event in (E.PREPARE_BACKUP, E.POST_SNAPSHOT) else {}
            seq = side.post(event, deadline_ms=int(SECONDS * 2000), **fields)
            if event == killed:
                time.sleep(0.02 * number)  # at another instant each time, also amid the handler
                os.kill(side.process.pid, signal.SIGKILL)
                break
            assert not side.reply(seq).veto
            times[event] = (time.monotonic() - began) * 1000
            if event is E.FREEZE:
                count = guest.count()
                shutil.copy(image, tmp_path / "cut.img")
        guest.wait_for_writes()
        if killed is None:
            assert count_in(str(tmp_path / "cut.img")) in (count, count + 1)
            side.process.terminate()
        side.process.wait(60)
        rows.append([number, killed or "-", *(f"{times.get(event, 0):.0f}" for event in (E.FREEZE, E.THAW)), "goes on"])
    print("\nround  killed in         freeze ms  thaw ms  guest")
    for row in rows:
        print("{:>5}  {:<16}  {:>9}  {:>7}  {}".format(*row))
