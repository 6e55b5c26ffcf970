"""Guests under libvirt, with libvirt's own test driver in this process, and with a libvirt that is gone or hangs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from qemu_peers import AgentPeer

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, WriterEvent
from shadowset.writers.qemu import domains, guard, processes
from shadowset.writers.qemu.calls import Calls
from shadowset.writers.qemu.disks import Disk
from shadowset.writers.qemu.domain_xml import Description
from shadowset.writers.qemu.domains import Opened, discover, load
from shadowset.writers.qemu.guest import HeldGuest, look
from shadowset.writers.qemu.restore import define_again
from shadowset.writers.qemu.settings import GuestSettings, Settings
from shadowset.writers.qemu.writer import QemuWriter
from shadowset.writers.sdk import MetadataBuilder
from shadowset.writers.server_settings import read_settings

try:
    load()
except VssError as error:
    pytest.skip(error.message, allow_module_level=True)

URI = "test:///default"  # its guests live as long as a connection of this process, and have agents
DISKS = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/><source file='/srv/top.qcow2' index='3'/>
  <backingStore type='file' index='1'><format type='qcow2'/><source file='/srv/middle.qcow2'/>
    <backingStore type='file'><format type='raw'/><source file='/srv/base.img'/><backingStore/></backingStore>
  </backingStore><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
<disk type='file' device='cdrom'><source file='/srv/install.iso'/><target dev='sdb' bus='sata'/></disk>
<disk type='block' device='disk'><source dev='/dev/disk/passed'/><target dev='vdb'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='pool/image'><host name='a'/></source>
  <target dev='vdc'/></disk>
<disk type='network' device='disk'><driver type='raw'/><source protocol='nbd' name='fast'>
  <host transport='unix' socket='/volumes/fast/nbd.sock'/></source><target dev='vdd'/></disk>
<disk type='volume' device='disk'><source pool='images' volume='a'/><target dev='vde'/></disk>
<disk type='volume' device='disk'><source pool='images' volume='b'/><target dev='vdf'/></disk>
<disk type='nvme' device='disk'><source type='pci' managed='yes'/><target dev='vdg'/></disk>
<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/></source></hostdev>
<hostdev mode='subsystem' type='usb'/>
<channel type='unix'><source mode='bind' path='/run/other'/><target type='virtio' name='org.other'/></channel>
<channel type='unix'><source mode='bind' path='/run/ga'/>
  <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
"""


def test_disks_by_the_words_of_libvirt() -> None:
    xml = f"<domain><os><nvram>/srv/vars.fd</nvram></os><devices>{DISKS}</devices></domain>"
    paths = {"/volumes/fast/nbd.sock": "fast"}
    pools = {("images", "a"): "/srv/pool-a.img"}
    tells = Description(xml, lambda place: paths.get(place, ""), lambda pool, name: pools.get((pool, name), ""))
    assert tells.disks() == [
        Disk("vda", "file", "/srv/top.qcow2", "qcow2", False, ("/srv/middle.qcow2", "/srv/base.img")),
        Disk("sdb", "file", "/srv/install.iso", "", True),
        Disk("vdb", "invisible", "/dev/disk/passed"),
        Disk("vdc", "invisible", "rbd:pool/image"),
        Disk("vdd", "volume", "fast", "raw"),
        Disk("vde", "file", "/srv/pool-a.img"),
        Disk("vdf", "invisible", "volume b of pool images"),
        Disk("vdg", "invisible", "nvme"),
        Disk("hostdev", "invisible", "the host's scsi_host0, passed through"),
    ]
    assert (tells.files(), tells.agent()) == (["/srv/vars.fd"], "/run/ga")


# --- libvirt's test driver


@pytest.fixture
def libvirt() -> Any:
    return load()


@pytest.fixture
def connection(libvirt: Any) -> Iterator[Any]:
    opened = libvirt.open(URI)
    yield opened
    opened.close()


Make = Callable[..., tuple[Any, GuestSettings]]


@pytest.fixture
def domain(connection: Any) -> Iterator[Make]:
    made: list[Any] = []

    def make(image: str, start: bool = True, more: str = "", **settings: Any) -> tuple[Any, GuestSettings]:
        name = f"guest-{uuid4()}"
        disk = f"<driver type='qcow2'/><source file='{image}'/><target dev='vda' bus='virtio'/>"
        devices = f"<devices><disk type='file' device='disk'>{disk}</disk>{more}</devices>"
        system = "<memory>1024</memory><os><type>hvm</type></os>"
        made.append(connection.defineXML(f"<domain type='test'><name>{name}</name>{system}{devices}</domain>"))
        if start:
            made[-1].create()
        return made[-1], GuestSettings(name=name, libvirt=URI, **settings)

    yield make
    names = {each.name() for each in made}
    for each in connection.listAllDomains():
        if each.name() in names:
            if each.isActive():
                each.destroy()
            each.undefine()


def test_a_guest_is_frozen_and_thawed_by_libvirt(domain: Make) -> None:
    running, settings = domain("/srv/a.qcow2")
    held = HeldGuest(settings)
    held.prepare(30)
    held.freeze(30)
    assert (held.method, held.frozen_count, held.held) == ("agent", 2, True)
    held.thaw(30)
    assert (running.fsThaw(), held.held) == (0, False)
    facts = held.facts()
    assert (facts["method"], facts["passwords_left_out"]) == ("agent", False)
    assert settings.name in str(facts["definition"])


def test_a_guest_thawed_by_others_is_told(domain: Make) -> None:
    running, settings = domain("/srv/a.qcow2", mount_points=["/boot"])
    held = HeldGuest(settings)
    held.prepare(30)
    held.freeze(30)
    assert held.frozen_count == 1
    running.fsThaw()
    with pytest.raises(VssError, match="thawed before the cut was over"):
        held.thaw(30)


def test_the_guard_thaws_by_libvirt(domain: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    running, settings = domain("/srv/a.qcow2")
    running.fsFreeze()
    answers = iter([True, False])  # the test driver's agents tell the time also while they are frozen
    monkeypatch.setattr(Opened, "frozen", lambda _opened: next(answers))
    assert guard.thawed(guard.Guarded(settings))
    assert running.fsThaw() == 0


def test_a_guest_without_an_agent_is_paused(domain: Make, libvirt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running, settings = domain("/srv/a.qcow2", without_agent="pause")

    def silent(opened: Opened) -> bool:
        raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, "the agent does not answer libvirt")

    monkeypatch.setattr(Opened, "frozen", silent)
    held = HeldGuest(settings)
    held.prepare(30)
    held.freeze(30)
    assert (held.method, running.state()[0]) == ("pause", libvirt.VIR_DOMAIN_PAUSED)
    assert guard.thawed(guard.Guarded(settings, paused=True))
    assert running.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    with pytest.raises(VssError, match="was not paused until"):
        held.thaw(30)
    running.suspend()
    another = HeldGuest(settings)
    another.prepare(30)
    assert another.method == "stopped"


def test_a_guest_that_is_off_is_its_files(domain: Make, tmp_path: Path) -> None:
    base, image = tmp_path / "base.img", tmp_path / "top.qcow2"
    base.write_bytes(bytes(1 << 16))
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(image)]
    subprocess.run(command, check=True, timeout=60)
    defined, settings = domain(str(image), start=False)
    held = HeldGuest(settings)
    held.prepare(30)
    assert held.seen.disks == [Disk("vda", "file", str(image), "qcow2", backing=(str(base),))]
    assert held.method == "off"
    defined.create()
    with pytest.raises(VssError, match="was started amid"):
        held.freeze(30)


def test_a_missing_guest_is_defined_again(domain: Make, connection: Any, libvirt: Any) -> None:
    defined, settings = domain("/srv/a.qcow2", start=False, more="<graphics type='vnc' passwd='secret'/>")
    held = HeldGuest(settings)
    held.prepare(30)
    facts = json.dumps(held.facts())
    assert "secret" not in facts
    component = Component(ComponentType.FILEGROUP, "guests", settings.name, backup_metadata=facts)
    define_again(component, URI)  # it is there
    assert "passwd='secret'" in defined.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    uuid = defined.UUIDString()
    defined.undefine()
    assert look(settings).gone
    define_again(component, URI)
    again = connection.lookupByName(settings.name)
    assert again.UUIDString() == uuid
    with_password = again.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    assert "passwd='" in with_password  # a display without one would be open to all
    assert "secret" not in with_password
    again.undefine()
    component.backup_metadata = json.dumps(held.facts() | {"definition": "<domain/>"})
    with pytest.raises(VssError, match="are restored, but it is not defined"):
        define_again(component, URI)


def test_all_guests_of_libvirt_are_found(domain: Make, tmp_path: Path) -> None:
    _, settings = domain("/srv/a.qcow2")
    _, stopped = domain("/srv/b.qcow2", start=False)
    found = {guest.name: guest for guest in discover(URI, "pause", 30)}
    assert {settings.name, stopped.name} <= set(found)
    assert (found[stopped.name].libvirt, found[stopped.name].without_agent) == (URI, "pause")
    words = ["qemu-system-x86_64", "-name", f"guest={settings.name},debug-threads=on"]
    words += ["-chardev", "socket,id=charmonitor,fd=28,server=on,wait=off", "-mon", "chardev=charmonitor,mode=control"]
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    assert processes.discover(proc=str(tmp_path), known=found) == []
    assert "is libvirt's, which does not tell" in str(processes.read_command_line(words))


def test_a_writer_of_libvirts_guests(processes: Any, coordinator: Any, tmp_path: Path) -> None:
    config = tmp_path / "qemu.toml"
    entries = [f'[[guest]]\nname = "{name}"\nlibvirt = "{URI}"\n' for name in ("test", "none")]
    config.write_text("\n".join(entries))
    processes.start("-m", "shadowset.writers.qemu.main", "--config", str(config))
    side = coordinator.writer()
    (info,) = side.ok(WriterEvent.IDENTIFY).metadata.components
    assert (info.name, info.caption) == ("test", "QEMU guest test, vda: /guest/diskimage1")


def test_a_definition_without_its_disk_is_left_out(domain: Make, tmp_path: Path) -> None:
    image = tmp_path / "a.qcow2"
    image.touch()
    _, whole = domain(str(image), start=False)
    _, lost = domain(str(tmp_path / "lost.qcow2"), start=False)
    writer = QemuWriter(Settings(libvirt=URI))
    metadata = MetadataBuilder(writer.identity())
    writer.on_identify(metadata)
    names = {component.name for component in metadata.build().components}
    assert whole.name in names
    assert lost.name not in names


# --- libvirt gone, or hanging


@pytest.fixture
def runtime() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ss-vm-", dir="/tmp") as path:
        yield path


def gone(runtime: str, **more: Any) -> GuestSettings:
    return GuestSettings(name="web", libvirt=f"qemu:///system?socket={runtime}/none", **more)


def test_a_libvirt_that_is_gone_is_named(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "STARTED", f"{runtime}/*.pid")
    with pytest.raises(VssError, match="cannot be reached at qemu:///system") as caught:
        HeldGuest(gone(runtime)).prepare(30)
    assert caught.value.code == Code.VSS_E_WRITERERROR_RETRYABLE
    assert discover(gone(runtime).libvirt, "refuse", 30) == []
    Path(f"{runtime}/web.pid").write_text(f"{os.getpid()}\n")  # a guest runs on
    with pytest.raises(VssError, match="cannot be reached at qemu:///system"):
        discover(gone(runtime).libvirt, "refuse", 30)
    assert discover("", "refuse", 30) == []


def test_a_frozen_guest_is_thawed_by_its_channel_when_libvirt_is_gone(runtime: str) -> None:
    agent = AgentPeer(f"{runtime}/ga", frozen=True)
    try:
        settings = gone(runtime, agent=agent.path)
        assert guard.thawed(guard.Guarded(settings))
        assert not agent.frozen
        assert not guard.thawed(guard.Guarded(gone(runtime)))  # no channel is known
    finally:
        agent.close()


def test_a_libvirt_that_hangs_is_not_waited_for(runtime: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{runtime}/none")
        listener.listen()
        held = HeldGuest(gone(runtime))
        with pytest.raises(VssError, match="did not answer in time") as caught:
            held.prepare(0.2)
        assert caught.value.code == Code.VSS_E_WRITERERROR_TIMEOUT


def test_calls_never_overlap() -> None:
    calls, go, order = Calls("somebody"), threading.Event(), []

    def late() -> None:
        go.wait(60)
        order.append("freeze")

    with pytest.raises(VssError, match="somebody did not answer"):
        calls.run(late, time.monotonic() + 0.1)
    with pytest.raises(VssError):
        calls.run(lambda: order.append("never"), time.monotonic() + 0.1)
    go.set()
    calls.run(lambda: order.append("thaw"), time.monotonic() + 60)
    assert order == ["freeze", "thaw"]


def test_a_wait_is_interrupted() -> None:
    calls, begun, go = Calls("somebody"), threading.Event(), threading.Event()
    failures: list[VssError] = []

    def work() -> None:
        begun.set()
        go.wait(60)

    def wait() -> None:
        try:
            calls.run(work, time.monotonic() + 60)
        except VssError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(30)
    calls.interrupt()
    thread.join(30)
    go.set()
    assert len(failures) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('libvirt = "qemu+ssh://host/system"\n', "of a libvirt on this host"),
        ('libvirt = "qemu://host/system"\n', "of a libvirt on this host"),
        ('libvirt = "web"\n', "of a libvirt on this host"),
        ('libvirt = "qemu:///system"\nqmp = "/q"\n', "both libvirt and qmp"),
        ('libvirt = "qemu:///system"\nseconds = 0.0\n', "seconds above 0"),
    ],
)
def test_a_wrong_libvirt_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f'[[guest]]\nname = "web"\n{text}')
    with pytest.raises(VssError, match=problem):
        read_settings(str(path), Settings)
