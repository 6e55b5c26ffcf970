"""Each check of the doctor: quiet on a sound host, and one finding with cause and next step for what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset import __version__
from shadowset.requester.doctor import kernel, service, storage
from shadowset.requester.doctor.examine import CHECKS, examine
from shadowset.requester.doctor.finding import Check, Finding, Patient, Told
from shadowset.requester.doctor.host import Host
from shadowset.vss.components import Failure
from shadowset.vss.enums import SnapshotState, WriterState
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import (
    EventRecord,
    ServiceInfo,
    SnapshotProperties,
    StorageInfo,
    VolumeInfo,
    WriterStatus,
)

NOW = 1_800_000_000 * 10**9
HOUR = 3600 * 10**9


class Tree(Host):
    """A host of files below a directory; what no file can say is said here."""

    synchronised = True
    libraries = ("fuse3",)
    settings = ""
    groups: dict[str, tuple[int, set[int]]] = {}

    def put(self, path: str, text: str = "") -> None:
        place = Path(self.at(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def clock_synchronised(self) -> bool:
        return self.synchronised

    def has_library(self, name: str) -> bool:
        return name in self.libraries

    def now_ns(self) -> int:
        return NOW

    def settings_trouble(self) -> str:
        return self.settings

    def groups_of(self, user: str) -> tuple[int, set[int]] | None:
        return self.groups.get(user)


def volume(**more: Any) -> VolumeInfo:
    fields = {
        "name": "data", "origin": "/dev/sdb1", "storage": "/store/data", "size": 1 << 30, "chunk_size": 16384,
        "state": "online", "device": "/dev/nbd0", "via": "nbd", "mount_points": ["/srv/data"], "copies": 1,
        "storage_used": 0, "nbd_socket": "", "pid": 77,
    }  # fmt: skip
    return VolumeInfo(**(fields | more))


def room(**more: Any) -> StorageInfo:
    fields = {
        "volume": "data", "storage": "/store/data", "used": 10, "available": 90, "max_size": 0,
        "policy": "delete-oldest", "warn_percent": 80, "copies": 1,
    }  # fmt: skip
    return StorageInfo(**(fields | more))


def mount(path: str, device: str = "8:1", kind: str = "ext4", source: str = "/dev/sda1") -> str:
    return f"20 1 {device} / {path} rw - {kind} {source} rw\n"


@pytest.fixture
def sound(tmp_path: Path) -> Patient:
    """A host where nothing is wrong."""
    host = Tree(str(tmp_path / "host"))
    host.put("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
    host.put("/proc/self/mountinfo", mount("/"))
    host.put("/proc/swaps", "Filename Type Size\n")
    host.put("/lib/modules/6.1.0-18-amd64/modules.dep", "kernel/drivers/block/nbd.ko:\n")
    host.put("/dev/fuse")
    host.put("/run/systemd/system/x")
    host.put("/lib/systemd/system/shadowsetd.service")
    host.put("/etc/systemd/system/multi-user.target.wants/shadowsetd.service")
    told = Told(
        service=ServiceInfo(
            version=__version__, pid=50, protocol=1, volumes=1, writers=0, sessions=0, devices_pid=51
        ),
        volumes=[volume()], storages=[room()],
        events=[EventRecord(1, NOW - 2 * HOUR, "set-created", "x"), EventRecord(2, NOW - HOUR, "set-created", "x")],
    )  # fmt: skip
    return Patient(host=host, paths=Paths(), told=told)


def only(check: Check, patient: Patient) -> Finding:
    (finding,) = check(patient)
    assert finding.cause and finding.next and not finding.cause.endswith(".") and not finding.next.endswith(".")
    return finding


def test_nothing_is_wrong_with_a_sound_host(sound: Patient) -> None:
    assert examine(sound) == []


def test_an_old_kernel(sound: Patient) -> None:
    sound.host.put("/proc/sys/kernel/osrelease", "5.10.0-28-amd64\n")  # type: ignore[attr-defined]
    assert "5.10.0-28-amd64" in only(kernel.kernel_version, sound).object


def test_no_nbd_is_a_warning_where_loop_stands_in(sound: Patient) -> None:
    host: Any = sound.host
    host.put("/lib/modules/6.1.0-18-amd64/modules.dep", "")
    assert only(kernel.block_devices, sound).level == "problem"
    host.put("/dev/loop-control")
    assert only(kernel.block_devices, sound).level == "warning"
    host.put("/sys/module/nbd/refcnt")
    assert not list(kernel.block_devices(sound))


def test_no_fuse(sound: Patient) -> None:
    host: Any = sound.host
    os.unlink(host.at("/dev/fuse"))
    assert "/dev/fuse" in only(kernel.fuse, sound).object
    host.put("/dev/fuse")
    host.libraries = ()
    assert "apt install fuse3" in only(kernel.fuse, sound).next


def test_clocks_that_step_or_drift(sound: Patient) -> None:
    sound.told.events.append(EventRecord(3, NOW + 3 * HOUR, "set-created", "x"))
    assert "3 h in the future" in only(kernel.clock, sound).cause
    sound.told.events[1:] = [EventRecord(2, NOW - 5 * HOUR, "set-created", "x")]
    assert "went back by 3 h between events 1 and 2" in only(kernel.clock, sound).cause
    sound.told.events.clear()
    sound.host.synchronised = False  # type: ignore[attr-defined]
    assert "drift" in only(kernel.clock, sound).cause


def test_memory_that_is_short(sound: Patient) -> None:
    host: Any = sound.host
    host.put("/proc/77/cgroup", "0::/system.slice/p.service\n")
    host.put("/sys/fs/cgroup/system.slice/p.service/memory.max", f"{64 << 20}\n")
    assert "allows it 64 MiB" in only(kernel.memory, sound).cause
    host.put("/sys/fs/cgroup/system.slice/p.service/memory.max", "max\n")
    host.put("/sys/fs/cgroup/system.slice/p.service/memory.events", "oom 3\noom_kill 2\n")
    assert "killed 2 of its processes" in only(kernel.memory, sound).cause
    host.put("/sys/fs/cgroup/system.slice/p.service/memory.events", "oom_kill 0\n")
    host.put("/proc/77/status", "Name:\tpython3\nVmLck:\t       0 kB\n")
    assert not list(kernel.memory(sound))
    host.put("/proc/swaps", "Filename Type Size\n/dev/sda2 partition 1\n")
    assert "locked in memory" in only(kernel.memory, sound).cause


def test_no_coordinator_or_another_version(sound: Patient) -> None:
    assert sound.told.service
    sound.told.service.version = "0.0.1"
    assert "systemctl restart shadowsetd" in only(service.coordinator, sound).next
    sound.told.service, sound.told.why = None, "nobody listens"
    assert "nobody listens" in only(service.coordinator, sound).cause


def test_units_that_do_not_start_with_the_host(sound: Patient) -> None:
    os.unlink(sound.host.at("/etc/systemd/system/multi-user.target.wants/shadowsetd.service"))
    assert "not enabled" in only(service.units, sound).cause
    sound.host.put("/etc/systemd/system/sockets.target.wants/shadowsetd.socket")  # type: ignore[attr-defined]
    assert not list(service.units(sound))
    os.unlink(sound.host.at("/lib/systemd/system/shadowsetd.service"))
    assert "shadowset setup" in only(service.units, sound).next


def test_sockets_that_nobody_serves(short_directory: Path) -> None:
    patient = Patient(host=Host(), paths=Paths(runtime=str(short_directory)), told=Told())
    (short_directory / "volumes/data").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as dead:
        alive.bind(patient.paths.requester_socket)
        alive.listen()
        dead.bind(patient.paths.control_socket("data"))
        dead.listen()
        assert not list(service.sockets(patient))
        dead.close()
        assert only(service.sockets, patient).object.endswith("/volumes/data/control.sock")


@pytest.fixture
def short_directory() -> Iterator[Path]:
    directory = Path(f"/tmp/ss-doctor-{os.getpid()}")
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def test_settings_that_the_coordinator_refuses(sound: Patient, tmp_path: Path, monkeypatch: Any) -> None:
    sound.host.settings = "x.toml: no"  # type: ignore[attr-defined]
    assert "will not start with them: x.toml: no" in only(service.settings, sound).cause
    monkeypatch.setenv("SHADOWSET_CONFIG_DIR", str(tmp_path))
    assert Host().settings_trouble() == ""
    (tmp_path / "shadowsetd.toml").write_text("[limit]\nnothing = 1\n")
    assert "key 'limit.nothing'" in Host().settings_trouble()


def test_storage_that_everybody_may_look_at(sound: Patient) -> None:
    place = Path(sound.host.at("/var/lib/shadowset/storage"))
    place.mkdir(parents=True, mode=0o700)
    assert not list(service.private_state(sound))
    place.chmod(0o755)
    assert "chmod 700 /var/lib/shadowset/storage" in only(service.private_state, sound).next


def test_writers_that_failed(sound: Patient) -> None:
    failed = WriterStatus("w", "i", "SQLite", WriterState.FAILED_AT_FREEZE, Failure(1, 0, "no room"), pid=9)
    sound.told.writers = [WriterStatus("v", "i", "Redis", WriterState.STABLE), failed]
    found = only(service.writers, sound)
    assert "SQLite" in found.object and "failed at freeze: no room" in found.cause


def test_writers_that_may_not_connect(sound: Patient) -> None:
    host: Any = sound.host
    host.put("/etc/systemd/system/multi-user.target.wants/shadowset-writer-sqlite@app.service")
    host.put("/lib/systemd/system/shadowset-writer-sqlite@.service", "[Service]\nUser=app\n")
    host.put("/run/shadowset/writer.sock")
    socket_file = Path(host.at("/run/shadowset/writer.sock"))
    socket_file.chmod(0o660)
    host.groups = {"app": (1000, {1000})}
    assert "'shadowset setup --writer app'" in only(service.writers, sound).next
    host.groups = {"app": (1000, {1000, socket_file.stat().st_gid})}
    assert not list(service.writers(sound))
    host.groups = {}
    assert "is unknown here" in only(service.writers, sound).cause
    socket_file.chmod(0o666)
    assert not list(service.writers(sound))


def test_copies_lost_and_clients_refused_lately(sound: Patient) -> None:
    sound.told.events = [
        EventRecord(1, NOW - 10 * 24 * HOUR, "snapshot-lost", "long ago", "data"),
        EventRecord(2, NOW - HOUR, "snapshot-lost", "a", "data"),
        EventRecord(3, NOW - HOUR, "snapshot-lost", "b", "data"),
        EventRecord(4, NOW - HOUR, "access-denied", "user 1000 may not be a writer"),
    ]
    assert only(service.losses, sound).cause.startswith("2 shadow copies were lost")
    assert "user 1000" in only(service.refused, sound).cause


def test_volumes_that_are_not_served(sound: Patient) -> None:
    sound.told.volumes = [volume(state="failed", message="its device is dead")]
    assert only(storage.volumes, sound).cause == "it is failed: its device is dead"


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="no device to look at")
def test_an_origin_that_is_mounted_beside_its_volume(sound: Patient) -> None:
    number = os.stat("/dev/null").st_rdev
    sound.host.status = lambda path: os.stat("/dev/null") if path == "/dev/sdb1" else None  # type: ignore[method-assign]
    beside = mount("/srv/data", f"{os.major(number)}:{os.minor(number)}", source="/dev/sdb1")
    sound.host.put("/proc/self/mountinfo", mount("/") + beside)  # type: ignore[attr-defined]
    assert "is mounted at /srv/data" in only(storage.volumes, sound).cause


def test_storage_in_the_wrong_place(sound: Patient) -> None:
    host: Any = sound.host
    host.put("/proc/self/mountinfo", mount("/") + mount("/store", "43:0", source="/dev/nbd0"))
    assert "the volume that it protects" in only(storage.storages, sound).cause
    sound.told.storages = [room(volume="other")]
    assert "the protected volume data" in only(storage.storages, sound).cause
    host.put("/proc/self/mountinfo", mount("/") + mount("/store", "0:50", "tmpfs", "tmpfs"))
    assert "a reboot takes all copies" in only(storage.storages, sound).cause
    host.put("/proc/self/mountinfo", mount("/") + mount("/stores", "0:50", "tmpfs", "tmpfs"))
    assert not list(storage.storages(sound))


def test_storage_that_runs_full(sound: Patient) -> None:
    sound.told.storages = [room(used=85, available=15)]
    assert only(storage.storages, sound).level == "warning"
    sound.told.storages = [room(used=97, available=1000, max_size=100, policy="protect-copies")]
    found = only(storage.storages, sound)
    assert found.level == "problem" and "97 %" in found.cause and "writes to the volume fail next" in found.cause
    assert found.next.startswith("give it more room: 'shadowset storage set data --max-size 64M', or delete")
    sound.told.storages = [room(used=0, available=0)]
    assert not list(storage.storages(sound))


def test_writes_that_are_refused_name_volume_cause_and_what_helps(sound: Patient) -> None:
    full = room(used=90, available=10, max_size=64 << 20, policy="protect-copies", writes_refused="no room")
    sound.told.storages = [full]
    sound.told.copies = [kept(1, hold_until_ns=NOW + HOUR)]
    found = only(storage.storages, sound)
    assert (found.level, found.object) == ("problem", "volume data")
    assert "writes to it fail" in found.cause and "protect-copies" in found.cause
    assert "--max-size 128M" in found.next, "a held copy cannot be deleted, so its hold is named"
    assert "'shadowset hold HarddiskVolumeShadowCopy1 --end'" in found.next
    sound.told.copies.append(kept(2))
    assert only(storage.storages, sound).next.endswith("delete a copy: 'shadowset delete HarddiskVolumeShadowCopy2'")
    assert sound.told.service is not None
    sound.told.service.deletion_grace_ms = 3_600_000
    assert "3600 s later" in only(storage.storages, sound).next


def test_held_copies_cost_writes_also_where_the_oldest_goes(sound: Patient) -> None:
    sound.told.storages = [room(used=99, available=1)]
    sound.told.copies = [kept(1, hold_until_ns=NOW + HOUR)]
    found = only(storage.storages, sound)
    assert "writes to the volume fail next, since its only shadow copy is held" in found.cause
    assert "'shadowset storage move data DIR'" in found.next


def test_nothing_is_said_of_a_volume_that_was_removed(sound: Patient) -> None:
    lost = EventRecord(1, NOW - HOUR, "snapshot-lost", "a", "data")
    removed = EventRecord(2, NOW - HOUR, "volume-removed", "volume data is no longer protected", "data")
    sound.told.events = [lost, removed]
    assert not list(service.losses(sound)), "one of the same name is another"
    sound.told.events, sound.told.storages = [lost], []
    assert not list(service.losses(sound))


def test_device_objects_without_server_and_without_coordinator(sound: Patient) -> None:
    host: Any = sound.host
    host.put(
        "/proc/self/mountinfo", mount("/") + mount("/run/shadowset/devices", "0:40", "fuse.shadowset", "shadowset")
    )
    assert not list(service.devices(sound))
    assert sound.told.service is not None
    sound.told.service.devices_pid = 0
    assert only(service.devices, sound).level == "problem"
    sound.told.service = None
    host.put("/run/shadowset/fuse.pid", "51")
    found = only(service.devices, sound)
    assert found.level == "warning" and "process 51" in found.object and "stay readable" in found.cause
    host.put("/proc/self/mountinfo", mount("/"))
    assert not list(service.devices(sound)), "neither runs, which another check tells"


def test_loop_devices_that_nobody_uses(sound: Patient) -> None:
    host: Any = sound.host
    host.put("/sys/block/loop3/loop/backing_file", "/run/shadowset/devices/HarddiskVolumeShadowCopy1\n")
    host.put("/sys/block/loop4/loop/backing_file", "/home/me/image\n")
    assert only(storage.loops, sound).object == "loop device /dev/loop3"
    host.put("/proc/self/mountinfo", mount("/") + mount("/mnt", "7:3", source="/dev/loop3"))
    assert not list(storage.loops(sound))
    host.put("/proc/self/mountinfo", mount("/"))
    sound.told.volumes = [volume(device="/dev/loop3")]
    assert not list(storage.loops(sound))
    sound.told = Told(why="away")
    assert not list(storage.loops(sound)), "without a coordinator nobody knows whose it is"


def test_mounts_whose_copy_or_server_is_gone(sound: Patient, monkeypatch: Any) -> None:
    host: Any = sound.host
    host.put("/proc/self/mountinfo", mount("/") + mount("/run/shadowset/mnt/abc", "7:3", source="/dev/loop3"))
    assert "is none any more" in only(storage.mounts, sound).cause
    sound.told.copies = [copy(exposed_name="/run/shadowset/mnt/abc")]
    assert not list(storage.mounts(sound))
    monkeypatch.setattr(host, "trouble", lambda path: "Transport endpoint is not connected")
    assert "Transport endpoint" in only(storage.mounts, sound).cause


def copy(**more: Any) -> SnapshotProperties:
    fields = {
        "snapshot_id": "s", "snapshot_set_id": "t", "snapshots_count": 1, "device_object": "", "exposed_path": "",
        "originating_machine": "", "service_machine": "", "provider_id": "", "attributes": 0, "created_ns": 0,
        "status": SnapshotState.CREATED, "device_number": 1, "size": 0, "number": 1, "mount_points": [],
        "original_volume": "data",
    }  # fmt: skip
    return SnapshotProperties(**(fields | more))


def kept(number: int, **more: Any) -> SnapshotProperties:
    device = f"/run/shadowset/devices/HarddiskVolumeShadowCopy{number}"
    return copy(snapshot_id=f"{number}", device_object=device, exposed_name="", created_ns=number, **more)


def test_a_journal_that_a_dead_coordinator_left(sound: Patient) -> None:
    sound.host.put("/run/shadowset/frozen/some-set")  # type: ignore[attr-defined]
    assert not list(storage.frozen(sound)), "a set is being made"
    sound.told = Told(why="away")
    assert "may still be frozen" in only(storage.frozen, sound).cause


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file system to freeze")
def test_a_file_system_that_is_really_frozen(tmp_path: Path, sound: Patient) -> None:
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True, timeout=60)
    patient = Patient(host=Host(), paths=sound.paths, told=sound.told)
    try:
        subprocess.run(["fsfreeze", "--freeze", str(place)], check=True, timeout=60)
        writer = subprocess.Popen(["touch", str(place / "waits")])
        try:
            until = time.monotonic() + 60
            while not (found := [each for each in storage.frozen(patient) if str(writer.pid) in each.object]):
                assert time.monotonic() < until
                time.sleep(0.05)
            assert "frozen file system" in found[0].cause and "(touch)" in found[0].object
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(place)], check=True, timeout=60)
            writer.wait(60)
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


def test_the_command_says_it_and_ends_with_what_it_found(run: Any, coordinator: Any, monkeypatch: Any) -> None:
    coordinator.events = [EventRecord(1, time.time_ns(), "snapshot-lost", "no room", "data")]
    coordinator.volumes["data"] = "/srv/data"
    status, out, _ = run("doctor")
    assert "1 shadow copy was lost in the last seven days.\n         See why with" in out
    assert out.splitlines()[-1].startswith(f"{len(CHECKS)} checks found ")
    told = json.loads(run("doctor", "--json")[1])
    assert {"check", "level", "object", "cause", "next"} == set(told[0])
    assert status == int(any(each["level"] == "problem" for each in told))
    monkeypatch.setenv("SHADOWSET_RUNTIME_DIR", f"{coordinator.directory}/elsewhere")
    status, out, _ = run("doctor")
    assert status == 1 and "problem  the coordinator: it does not answer" in out


def test_the_real_host_can_be_looked_at() -> None:
    host = Host()
    assert host.kernel() and host.mount_of("/proc/self") is not None
    assert host.has_module("nothing-of-this-name") is False
    assert isinstance(host.clock_synchronised(), bool)
    known = host.groups_of("root")
    assert known and known[0] == 0 and host.groups_of("no-such-user-here") is None
