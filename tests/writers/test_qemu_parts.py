"""The QEMU writer's dialogues with agents that answer badly, and what it reads from QEMU's words."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from qemu_peers import GREETING, AgentPeer, MonitorPeer, Peer, returns

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType
from shadowset.writers.qemu import guard, processes
from shadowset.writers.qemu.disks import disks_of, locate, shadowset_volume
from shadowset.writers.qemu.guest import HeldGuest, look
from shadowset.writers.qemu.processes import discover, read_command_line
from shadowset.writers.qemu.restore import check_images, turn_off, turn_on
from shadowset.writers.qemu.settings import GuestSettings, Settings
from shadowset.writers.qemu.wire import Agent, Monitor
from shadowset.writers.server_settings import read_settings


@pytest.fixture
def runtime() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ss-vm-", dir="/tmp") as path:
        yield path


@pytest.fixture
def peers(runtime: str) -> Iterator[Callable[..., tuple[AgentPeer, HeldGuest]]]:
    made: list[Peer] = []

    def make(*silent: str, seconds: float = 60.0, **more: Any) -> tuple[AgentPeer, HeldGuest]:
        agent = AgentPeer(f"{runtime}/ga", silent)
        made.extend([agent, MonitorPeer(f"{runtime}/qmp")])
        settings = GuestSettings(name="web", qmp=f"{runtime}/qmp", agent=f"{runtime}/ga", seconds=seconds, **more)
        return agent, HeldGuest(settings)

    yield make
    for peer in made:
        peer.close()


def test_stale_answers_in_the_channel_are_passed_over(peers: Any) -> None:
    agent, held = peers()
    held.prepare(30)
    held.freeze(30)
    assert (agent.frozen, held.held, held.frozen_count) == (True, True, 1)
    held.thaw(30)
    assert (agent.frozen, held.held) == (False, False)


def test_a_freeze_whose_answer_is_lost_is_taken_back(peers: Any) -> None:
    agent, held = peers("guest-fsfreeze-freeze", seconds=1.0)
    held.prepare(30)
    with pytest.raises(VssError, match="did not answer in time") as caught:
        held.freeze(30)
    assert caught.value.code == Code.VSS_E_WRITERERROR_TIMEOUT
    assert (agent.frozen, held.held) == (False, False)


def test_a_guest_that_may_be_crash_consistent_is_not_refused(peers: Any) -> None:
    agent, held = peers("guest-fsfreeze-freeze", seconds=1.0, without_agent="crash-consistent")
    held.prepare(30)
    held.freeze(30)
    assert (agent.frozen, held.facts()["method"]) == (False, "crash-consistent")
    assert "did not answer in time" in str(held.facts()["why"])
    held.thaw(30)


def test_a_guest_stays_held_until_its_agent_says_that_it_is_thawed(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowset.writers.qemu.guest.LOOK_SECONDS", 0.5)
    agent, held = peers("guest-fsfreeze-freeze", "guest-fsfreeze-thaw", seconds=1.0)
    held.prepare(30)
    with pytest.raises(VssError):
        held.freeze(30)
    assert held.held  # nobody said that it is thawed
    guarded = guard.Guarded(held.settings)
    assert guard.thawed(guarded) or guard.thawed(guarded)
    agent.frozen = True
    guard.thaw_all(msgspec.json.encode([guarded]))
    assert not agent.frozen


def test_a_given_up_guest_is_not_frozen_any_more(peers: Any) -> None:
    agent, held = peers("guest-fsfreeze-freeze")
    held.prepare(30)
    failures: list[VssError] = []

    def freeze() -> None:
        try:
            held.freeze(60)
        except VssError as error:
            failures.append(error)

    thread = threading.Thread(target=freeze)
    thread.start()
    end = time.monotonic() + 30
    while "guest-fsfreeze-freeze" not in agent.asked:
        assert time.monotonic() < end
        time.sleep(0.01)
    held.give_up()
    thread.join(30)
    assert len(failures) == 1
    held.thaw(30)
    assert (agent.frozen, held.held) == (False, False)
    with pytest.raises(VssError, match="given up"):
        held.freeze(30)


def test_the_guard_lets_a_paused_guest_run(runtime: str) -> None:
    monitor = MonitorPeer(f"{runtime}/qmp")
    try:
        settings = GuestSettings(name="web", qmp=monitor.path, without_agent="pause")
        held = HeldGuest(settings)
        held.prepare(30)
        held.freeze(30)
        assert monitor.state == "paused"
        assert guard.thawed(guard.Guarded(settings, paused=True))
        assert monitor.state == "running"
        with pytest.raises(VssError, match="was not paused until"):
            held.thaw(30)
    finally:
        monitor.close()


def test_a_guest_that_answers_with_rubbish_is_taken_back(peers: Any) -> None:
    agent, held = peers()
    held.prepare(30)
    honest = agent.answer
    agent.answer = lambda request: (honest(request), returns(["many"]))[request["execute"] == "guest-fsfreeze-freeze"]
    with pytest.raises(VssError, match="with no number"):
        held.freeze(30)
    assert (agent.frozen, held.held) == (False, False)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"nonsense\n", "does not speak JSON"),
        (b"[" * 100_000 + b"\n", "does not speak JSON"),
        (b"[]\n", "does not speak as it should"),
        (b'{"error": {"class": "CommandNotFound", "desc": "no such thing"}}\n', "no such thing"),
        (b"{}\n", "no QMP monitor"),
    ],
)
def test_bad_answers_are_told(runtime: str, answer: bytes, problem: str) -> None:
    greeting = GREETING if "no QMP" not in problem else answer
    peer = Peer(f"{runtime}/qmp", lambda _request: answer, greeting)
    try:
        with pytest.raises(VssError, match=problem):
            Monitor(peer.path, "web", time.monotonic() + 30)
    finally:
        peer.close()


def test_nobody_there(runtime: str) -> None:
    with pytest.raises(VssError, match="cannot be reached"):
        Agent(f"{runtime}/none", "web", time.monotonic() + 5)
    peer = Peer(f"{runtime}/qmp", lambda _request: None)
    with pytest.raises(VssError, match="another program holds"):
        look(GuestSettings(name="web", qmp=peer.path), 0.2)
    peer.close()
    Path(peer.path).touch()
    with pytest.raises(VssError, match="cannot be reached"):
        Monitor(f"{runtime}/dir/none", "web", time.monotonic() + 5)
    assert look(GuestSettings(name="web", qmp=f"{runtime}/none")).state == "off"


def test_what_stands_behind_a_disk(tmp_path: Path) -> None:
    volumes, devices = str(tmp_path / "volumes"), tmp_path / "devices"
    devices.mkdir()
    (devices / "data").symlink_to("/dev/null")

    def volume_of(place: str) -> str:
        return shadowset_volume(place, volumes, str(devices))

    image = tmp_path / "a.qcow2"
    image.touch()
    nbd = f"{volumes}/fast/nbd.sock"
    cases = {
        str(image): ("file", str(image)),
        f"file:{image}": ("file", str(image)),
        f'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{image}"}}}}': ("file", str(image)),
        f"nbd+unix:///fast?socket={nbd}": ("volume", "fast"),
        f"nbd:unix:{nbd}:exportname=fast": ("volume", "fast"),
        f'json:{{"driver": "raw", "file": {{"driver": "nbd", "server": {{"type": "unix", "path": "{nbd}"}}}}}}': (
            "volume", "fast",
        ),
        "nbd+unix:///x?socket=/other.sock": ("invisible", "nbd+unix:///x?socket=/other.sock"),
        "nbd://host/x": ("invisible", "nbd://host/x"),
        "rbd:pool/image": ("invisible", "rbd:pool/image"),
        "/dev/disk/gone": ("invisible", "/dev/disk/gone"),
    }  # fmt: skip
    assert {name: locate(name, volume_of) for name in cases} == cases
    assert volume_of("/dev/null") == "data"
    assert volume_of("/dev/zero") == ""


def test_disks_by_the_words_of_the_monitor() -> None:
    backing = {"filename": "/srv/base.img", "backing-image": {"filename": "/srv/older.img"}}
    blocks = [
        {"device": "", "qdev": "/machine/x/virtio-backend", "inserted": {
            "image": {"filename": "/srv/a.qcow2", "format": "qcow2", "backing-image": backing}, "ro": False}},
        {"device": "cd0"},
        {"device": "sd0", "inserted": {"file": "/dev/disk/passed", "drv": "host_device", "ro": True}},
    ]  # fmt: skip
    first, second = disks_of(blocks, lambda _place: "")
    assert (first.device, first.format, first.backing) == ("/machine/x", "qcow2", ("/srv/base.img", "/srv/older.img"))
    assert (second.kind, second.read_only) == ("invisible", True)
    assert second.text() == "sd0: /dev/disk/passed, in no copy"


def test_guests_by_their_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "qemu-system-x86_64", "-name", "guest=web,debug-threads=on",
        "-chardev", "socket,id=m,path=/run/q,,1/m,server=on", "-mon", "chardev=m,mode=control",
        "-chardev", "socket,path=/run/q/ga,server=on,id=qga0", "-daemonize",
        "-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0",
    ]  # fmt: skip
    found = read_command_line(words, "pause")
    assert found == GuestSettings(name="web", qmp="/run/q,1/m", agent="/run/q/ga", without_agent="pause")
    short = ["kvm", "-qmp", "unix:/run/a,server=on,wait=off", "-name", "plain"]
    for pid, line in (("7", words), ("8", words), ("9", short), ("10", ["kvm", "-name", "mute"]), ("11", ["sh"])):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in line))
    (tmp_path / "12").mkdir()
    monkeypatch.setattr(processes, "FIRST_OF_PEOPLE", os.geteuid() + 1)
    assert [each.name for each in discover(proc=str(tmp_path))] == ["web", "plain"]
    monkeypatch.setattr(processes, "FIRST_OF_PEOPLE", os.geteuid())
    assert discover(proc=str(tmp_path)) == []  # anybody may run what looks like a guest
    assert "has no qmp" in str(read_command_line(["kvm", "-name", "mute"]))


def test_a_restored_image_is_looked_through(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(60))
    disk = {"device": "a", "kind": "file", "place": str(path), "format": "qcow2"}
    component = Component(ComponentType.FILEGROUP, "guests", "web", backup_metadata=json.dumps({"disks": [disk]}))
    with pytest.raises(VssError, match="is not sound"):
        check_images(component, 60)
    check_images(Component(ComponentType.FILEGROUP, "guests", "web", backup_metadata="?"), 60)


def test_a_guest_is_turned_off_and_on(runtime: str) -> None:
    peer = MonitorPeer(f"{runtime}/qmp")
    guest = GuestSettings(name="web", qmp=peer.path, stop_command=["rm", peer.path], start_command=["true"])
    turn_on(guest, 30, lambda: False)
    guest.stop_command = ["true"]
    with pytest.raises(VssError, match="still on after"):
        turn_off(guest, 30, lambda: True)
    guest.stop_command = ["mv", peer.path, f"{peer.path}2"]
    turn_off(guest, 30, lambda: False)
    turn_off(guest, 30, lambda: False)  # it is off
    os.rename(f"{peer.path}2", peer.path)
    peer.close()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('name = "a/b"\nqmp = "/q"\n', "without /"),
        ('name = "a"\nqmp = "q"\n', "absolute path"),
        ('name = "a"\nqmp = ""\n', "has no qmp"),
        ('name = "a"\nqmp = "/q"\nmount_points = ["/srv"]\n', "add agent"),
        ('name = "a"\nqmp = "/q"\nseconds = 0.0\n', "seconds above 0"),
        ('name = "a"\nqmp = "/q"\nwithout_agent = "hope"\n', "Invalid enum value"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"[[guest]]\n{text}")
    with pytest.raises(VssError, match=problem):
        read_settings(str(path), Settings)
