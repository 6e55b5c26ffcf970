"""A real guest under a real libvirtd: frozen, cut and thawed while the writer, libvirt, or both are lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from libvirt_host import LibvirtGuest, LibvirtHost, lacking
from qemu_guest import count_in, make_data_disk, missing, unpack

from shadowset.vss.codes import Code
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, WriterEvent
from shadowset.writers.qemu import guard
from shadowset.writers.qemu.calls import Calls
from shadowset.writers.qemu.domains import GoneError, Opened, load
from shadowset.writers.qemu.settings import GuestSettings
from shadowset.writers.qemu.writer import LOGICAL_PATH

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
E = WriterEvent
SECONDS = 60.0


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Path, str]]:
    if reason := missing() or lacking():
        pytest.skip(f"not installed: {reason}")
    top = Path(tempfile.mkdtemp(prefix="ss-lv-", dir="/var/tmp"))
    runtime = tempfile.mkdtemp(prefix="ss-lv-", dir="/tmp")
    yield top, runtime
    shutil.rmtree(runtime)
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def host(place: tuple[Path, str]) -> Iterator[LibvirtHost]:
    made = LibvirtHost(place[0] / "libvirt", place[1])
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def booted(place: tuple[Path, str], host: LibvirtHost) -> LibvirtGuest:
    top, runtime = place
    make_data_disk(f"{top}/disk.img")
    made = LibvirtGuest(host, *unpack(top), runtime, f"{top}/disk.img")
    made.define()
    made.start()
    made.wait_for_writes()
    return made


@pytest.fixture
def guest(booted: LibvirtGuest) -> Iterator[LibvirtGuest]:
    """As it must be before each test and after it: it writes, and libvirt answers."""
    yield booted
    process = booted.host.process
    assert process is not None
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
    else:
        booted.host.start()
    booted.wait_for_agent()
    booted.wait_for_writes()


@pytest.fixture
def start(host: LibvirtHost, processes: Any, coordinator: Any, tmp_path: Path) -> Callable[..., Any]:
    def begin(more: str = "seconds = 60.0", name: str = "web") -> Any:
        config = tmp_path / "qemu.toml"
        config.write_text(f'[[guest]]\nname = "{name}"\nlibvirt = "{host.uri}"\n{more}\n')
        process = processes.start("-m", "shadowset.writers.qemu.main", "--config", str(config))
        side = coordinator.writer()
        side.process = process
        return side

    return begin


def chosen(name: str = "web") -> list[Component]:
    return [Component(ComponentType.FILEGROUP, LOGICAL_PATH, name)]


def prepare(side: Any, name: str = "web") -> Any:
    side.ok(E.PREPARE_BACKUP, components=chosen(name))
    return side.ask(E.PREPARE_SNAPSHOT, deadline_ms=int(SECONDS * 2000))


def freeze(side: Any, name: str = "web") -> float:
    """Milliseconds."""
    assert not prepare(side, name).veto
    began = time.monotonic()
    side.ok(E.FREEZE, deadline_ms=int(SECONDS * 2000))
    return (time.monotonic() - began) * 1000


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_file_systems_of_a_guest_are_frozen_by_libvirt(
    start: Callable[..., Any], guest: LibvirtGuest, tmp_path: Path, figures: list[str]
) -> None:
    (image,) = guest.disks
    side = start()
    (info,) = side.ok(E.IDENTIFY).metadata.components
    assert [(files.path, files.filespec) for files in info.files] == [os.path.split(image)]
    times = []
    for _ in range(10):
        times.append(freeze(side))
        count, before = guest.count(), digest(image)
        shutil.copy(image, tmp_path / "cut.img")
        time.sleep(0.3)
        assert (guest.count(), digest(image)) == (count, before)
        side.ok(E.THAW)
        guest.wait_for_writes()
        assert count_in(str(tmp_path / "cut.img")) in (count, count + 1)  # one may be written and not told yet
        (component,) = side.ok(E.POST_SNAPSHOT, components=chosen()).components
    facts = json.loads(component.backup_metadata)
    assert (facts["method"], facts["frozen_file_systems"], facts["disks"][0]["place"]) == ("agent", 1, image)
    assert "<name>web</name>" in facts["definition"]
    assert "secret" not in component.backup_metadata
    middle = sorted(times)[len(times) // 2]
    figures.append(f"a freeze by libvirt: {middle:.0f} ms (median of {len(times)}, longest {max(times):.0f} ms)")


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_lost_writer_leaves_no_frozen_guest(start: Callable[..., Any], guest: LibvirtGuest, how: str) -> None:
    side = start()
    freeze(side)
    os.kill(side.process.pid, signal.SIGKILL if how == "killed" else signal.SIGTERM)
    guest.wait_for_writes()


def test_a_guest_is_thawed_when_libvirt_has_ended(start: Callable[..., Any], guest: LibvirtGuest) -> None:
    side = start()
    freeze(side)
    guest.host.kill()
    side.ok(E.THAW)  # by the channel; it was frozen until now
    guest.wait_for_writes()
    guest.host.start()
    guest.wait_for_agent()
    freeze(side)
    side.ok(E.THAW)


def test_a_guest_is_thawed_when_libvirt_and_the_writer_have_ended(
    start: Callable[..., Any], guest: LibvirtGuest
) -> None:
    side = start()
    freeze(side)
    guest.host.kill()
    os.kill(side.process.pid, signal.SIGKILL)
    guest.wait_for_writes()


def test_libvirt_is_restarted_while_a_guest_is_frozen(start: Callable[..., Any], guest: LibvirtGuest) -> None:
    side = start()
    freeze(side)
    guest.host.kill()
    guest.host.start()
    count = guest.count()
    side.ok(E.THAW)
    assert guest.wait_for_writes() > count


def test_libvirt_ends_amid_a_dialogue(guest: LibvirtGuest) -> None:
    settings, end = GuestSettings(name="web", libvirt=guest.host.uri), time.monotonic() + SECONDS
    with Opened(settings, Calls("libvirt"), end) as opened:
        assert opened.freeze([]) == 1
        guest.host.kill()
        with pytest.raises(GoneError, match="did not do its work for the guest web"):
            opened.thaw()
    assert guard.thawed(guard.Guarded(msgspec.structs.replace(settings, agent=guest.agent)))


@pytest.mark.parametrize("who", ["libvirt", "guest"])
def test_a_freeze_that_is_carried_out_late_is_taken_back(
    start: Callable[..., Any], guest: LibvirtGuest, who: str
) -> None:
    side = start("seconds = 2.0")
    assert not prepare(side).veto
    assert guest.host.process is not None
    pid = guest.host.process.pid if who == "libvirt" else guest.host.pid_of(guest.name)
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = side.ask(E.FREEZE, deadline_ms=int(SECONDS * 2000))
        assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_TIMEOUT)
        side.ask(E.ABORT)
    finally:
        os.kill(pid, signal.SIGCONT)
    guest.wait_for_agent()  # one that is frozen would refuse
    guest.wait_for_writes(20)


def test_a_guest_frozen_by_somebody_else_is_refused(start: Callable[..., Any], guest: LibvirtGuest) -> None:
    side = start()
    guest.domain().fsFreeze()
    try:
        answer = prepare(side)
        assert answer.veto
        assert "frozen by somebody else" in answer.message
        side.ok(E.ABORT)
    finally:
        assert guest.domain().fsThaw() == 1  # what others froze is theirs


def test_a_guest_without_a_channel(start: Callable[..., Any], guest: LibvirtGuest, place: tuple[Path, str]) -> None:
    top, runtime = place
    make_data_disk(f"{top}/bare.img")
    bare = LibvirtGuest(guest.host, *packed(top), runtime, f"{top}/bare.img", name="bare", agent=False)
    bare.define()
    bare.domain().create()
    libvirt = load()
    try:
        side = start(name="bare")
        answer = prepare(side, "bare")
        assert answer.veto
        assert "give its domain a channel org.qemu.guest_agent.0" in answer.message
        side.process.terminate()
        side.process.wait(60)
        side = start('without_agent = "pause"', "bare")
        freeze(side, "bare")
        assert bare.domain().state()[0] == libvirt.VIR_DOMAIN_PAUSED
        os.kill(side.process.pid, signal.SIGKILL)
        end = time.monotonic() + SECONDS
        while bare.domain().state()[0] != libvirt.VIR_DOMAIN_RUNNING:
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        bare.end()
        bare.domain().undefine()


def packed(top: Path) -> tuple[Path, Path]:
    """Kernel and initial file system, as they were unpacked before."""
    (kernel,) = (top / "packages").glob("boot/vmlinuz-*")
    return kernel, top / "initramfs"
