"""The system's writers as a process, event by event, with real locks, disks and tools."""

from __future__ import annotations

import fcntl
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

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, UsageType, WriterEvent
from shadowset.vss.filespec import FileSelection
from shadowset.writers.system.layout import Reports
from shadowset.writers.system.rebuild import script
from shadowset.writers.system.settings import Settings
from shadowset.writers.system.tree import homes, parts_of

E = WriterEvent
TREE = (
    "etc/passwd", "etc/fstab", "etc/app/app.conf", "etc/systemd/system/app.service", "etc/cron.d/app", "etc/host.conf",
    "etc/udev/rules.d/70-net.rules", "usr/lib/os-release", "usr/lib/modules/6.1/modules.dep", "usr/bin/sh",
    "var/lib/dpkg/status", "var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend", "var/lib/app/state",
    "var/lib/postgresql/15/data", "var/lib/systemd/timers/stamp", "var/lib/samba/private/sam.ldb", "etc/samba/smb.conf",
    "var/spool/cron/root", "var/log/syslog", "var/www/page", "boot/vmlinuz", "opt/tool", "home/ada/letter",
)  # fmt: skip
NOBODYS = {"var/lib/postgresql/15/data", "var/log/syslog", "home/ada/letter"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    for path in TREE:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(path)
    (top / "lib").symlink_to("usr/lib")
    return top


@pytest.fixture
def start(processes: Any, coordinator: Any, tmp_path: Path, tree: Path) -> Callable[..., Any]:
    def begin(more: str = "") -> dict[str, Any]:
        config = tmp_path / "system.toml"
        config.write_text(f'root = "{tree}"\n{more}\n')
        process = processes.start("-m", "shadowset.writers.system.main", "--config", str(config))
        sides = {}
        for _ in range(3):
            side = coordinator.writer()
            side.process = process
            sides[side.hello.name.split()[0]] = side
        return sides

    return begin


def owners(tree: Path, sides: dict[str, Any]) -> dict[str, list[str]]:
    """Components by file."""
    found: dict[str, list[str]] = {path: [] for path in TREE}
    for side in sides.values():
        document = side.ok(E.IDENTIFY).metadata
        for component in document.components:
            selection = FileSelection(component.file_sets, document.exclude_files, {})
            for path in TREE:
                full = str(tree / path)
                if selection.file_set(full) is not None and not selection.is_excluded(full):
                    found[path].append(component.name)
    return found


def test_no_file_belongs_to_two_components(start: Callable[..., Any], tree: Path) -> None:
    sides = start()
    found = owners(tree, sides)
    assert {path: names for path, names in found.items() if len(names) > 1} == {}
    assert {path for path, names in found.items() if not names} == NOBODYS - {"home/ada/letter"}
    assert {path: names[0] for path, names in found.items() if names} == {
        "etc/passwd": "accounts", "etc/fstab": "machine", "etc/app/app.conf": "configuration",
        "etc/systemd/system/app.service": "units", "etc/cron.d/app": "units", "etc/host.conf": "configuration",
        "etc/udev/rules.d/70-net.rules": "machine", "usr/lib/os-release": "software",
        "usr/lib/modules/6.1/modules.dep": "boot", "usr/bin/sh": "software", "var/lib/dpkg/status": "packages",
        "var/lib/dpkg/lock": "packages", "var/lib/dpkg/lock-frontend": "packages", "var/lib/app/state": "state",
        "var/lib/systemd/timers/stamp": "units", "var/lib/samba/private/sam.ldb": "directory service",
        "etc/samba/smb.conf": "directory service", "var/spool/cron/root": "units", "var/www/page": "state",
        "boot/vmlinuz": "boot", "opt/tool": "software", "home/ada/letter": "ada",
    }  # fmt: skip
    usages = {name: side.ok(E.IDENTIFY).metadata.usage for name, side in sides.items()}
    assert usages == {
        "System": UsageType.BOOTABLESYSTEMSTATE,
        "Layout": UsageType.BOOTABLESYSTEMSTATE,
        "User": UsageType.USERDATA,
    }


def is_locked(path: Path) -> bool:
    with open(path, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["thaw", "abort", "killed", "coordinator lost"])
def test_package_managers_wait_over_the_cut_and_no_longer(start: Callable[..., Any], tree: Path, how: str) -> None:
    side = start()["System"]
    lock = tree / "var/lib/dpkg/lock-frontend"
    side.ok(E.PREPARE_BACKUP, components=[])
    assert not is_locked(lock)
    side.ok(E.PREPARE_SNAPSHOT)
    assert is_locked(lock)
    side.ok(E.FREEZE)
    assert is_locked(lock)
    if how == "killed":
        os.kill(side.process.pid, signal.SIGKILL)
    elif how == "coordinator lost":
        side.drop()
    else:
        side.ok(E.THAW if how == "thaw" else E.ABORT)
    wait_for("the lock is held on", lambda: not is_locked(lock))


def test_a_tree_that_is_read_live_rests_until_it_was_read(start: Callable[..., Any], tree: Path) -> None:
    side = start("read_live = true")["System"]
    lock = tree / "var/lib/dpkg/lock-frontend"
    files = [files for component in side.ok(E.IDENTIFY).metadata.components for files in component.files]
    assert {each.mask for each in files} == {0x0F}
    side.ok(E.PREPARE_BACKUP, components=[])
    for event in (E.PREPARE_SNAPSHOT, E.FREEZE, E.THAW):
        side.ok(event)
    side.ok(E.POST_SNAPSHOT, components=[])
    assert is_locked(lock)
    side.ok(E.BACKUP_COMPLETE, components=[])
    assert not is_locked(lock)


def test_an_installation_that_goes_on_fails_the_set(start: Callable[..., Any], tree: Path) -> None:
    side = start()["System"]
    side.ok(E.PREPARE_BACKUP, components=[])
    with open(tree / "var/lib/dpkg/lock", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        answer = side.ask(E.PREPARE_SNAPSHOT, deadline_ms=2000)
        assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_RETRYABLE, True)
        assert "changes packages or accounts" in answer.message
        assert not is_locked(tree / "var/lib/dpkg/lock-frontend")
    side.ok(E.PREPARE_SNAPSHOT)


def test_a_spoilt_package_data_base_is_told_after_a_restore(start: Callable[..., Any], tree: Path) -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("not installed: dpkg")
    status = tree / "var/lib/dpkg/status"
    status.write_text(
        "Package: half\nStatus: install ok half-configured\nVersion: 1\nArchitecture: all\nMaintainer: x\n"
        "Description: y\n"
    )
    side = start()["System"]
    wanted = [Component(ComponentType.FILEGROUP, "system", "packages", file_restore_status=FileRestoreStatus.ALL)]
    answer = side.ask(E.POST_RESTORE, components=wanted)
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED
    assert "half" in answer.components[0].post_restore_failure_message


@pytest.fixture
def loops() -> Iterator[Callable[[int], str]]:
    if os.geteuid() or shutil.which("sfdisk") is None or shutil.which("lsblk") is None:
        pytest.skip("needs root, sfdisk and lsblk")
    top = tempfile.mkdtemp(prefix="ss-layout-", dir="/var/tmp")
    made: list[str] = []

    def make(size: int) -> str:
        image = f"{top}/{len(made)}.img"
        with open(image, "wb") as file:
            file.truncate(size)
        done = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=True)
        made.append(done.stdout.strip())
        return made[-1]

    yield make
    for device in made:
        subprocess.run(["losetup", "-d", device], timeout=60, check=False)
    shutil.rmtree(top, ignore_errors=True)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.vss(139)
def test_disks_are_made_anew_from_their_layout(
    start: Callable[..., Any], tree: Path, loops: Callable[[int], str]
) -> None:
    plain, parted = loops(32 << 20), loops(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-L", "my data", plain], check=True, timeout=60)
    subprocess.run(["sfdisk", "-q", parted], input="label: gpt\n,8M,U\n,,L\n", text=True, check=True, timeout=60)
    uuid, table = output("blkid", "-p", "-o", "value", "-s", "UUID", plain), output("sfdisk", "-d", parted)
    side = start(f'disks = ["{plain}", "{parted}"]')["Layout"]
    chosen = [Component(ComponentType.FILEGROUP, "system", "disk layout")]
    side.ok(E.PREPARE_BACKUP, components=chosen)
    for event in (E.PREPARE_SNAPSHOT, E.FREEZE, E.THAW):
        side.ok(event)
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen).components
    facts = json.loads(component.backup_metadata)
    assert (facts["disks"], facts["file_systems"], facts["missing"]) == ([plain, parted], {plain: uuid.strip()}, [])
    reports = tree / "var/lib/shadowset/system-state/disk-layout"
    assert {path.stat().st_mode & 0o777 for path in reports.iterdir()} == {0o600}

    new_plain, new_parted = loops(32 << 20), loops(32 << 20)
    rebuild = ["sh", str(reports / "rebuild.sh")]
    assert subprocess.run(rebuild, capture_output=True, timeout=60, check=False).returncode == 2
    subprocess.run([*rebuild, f"{plain}={new_plain}", f"{parted}={new_parted}"], check=True, timeout=60)
    assert output("blkid", "-p", "-o", "value", "-s", "UUID", new_plain) == uuid
    assert output("blkid", "-p", "-o", "value", "-s", "LABEL", new_plain) == "my data\n"
    assert output("sfdisk", "-d", new_parted).replace(new_parted, parted) == table


def test_headers_with_keys_are_saved_only_when_asked_for(
    start: Callable[..., Any], tree: Path, loops: Callable[[int], str]
) -> None:
    if shutil.which("cryptsetup") is None:
        pytest.skip("not installed: cryptsetup")
    disk = loops(32 << 20)
    form = ["cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", disk, "-"]
    subprocess.run(form, input=b"secret", check=True, timeout=120)
    reports = tree / "var/lib/shadowset/system-state/disk-layout"
    for more, saved in (("", False), ("luks_headers = true", True)):
        side = start(f'disks = ["{disk}"]\n{more}')["Layout"]
        side.ok(E.PREPARE_BACKUP, components=[])
        side.ok(E.PREPARE_SNAPSHOT)
        header = reports / f"{os.path.basename(disk)}.luks"
        assert header.exists() == saved
        side.ok(E.ABORT)
        side.process.terminate()
        side.process.wait(30)
    assert header.stat().st_mode & 0o777 == 0o600
    new = loops(32 << 20)
    done = subprocess.run(["sh", str(reports / "rebuild.sh"), f"{disk}={new}"], capture_output=True, check=False)
    assert done.returncode == 3  # what is inside is for somebody with the passphrase
    subprocess.run(
        ["cryptsetup", "open", "--test-passphrase", new, "-d", "-"], input=b"secret", check=True, timeout=120
    )


def test_the_script_says_what_it_cannot_make(tmp_path: Path) -> None:
    part = {"path": "/dev/nvme0n1p2", "type": "part", "fstype": "LVM2_member", "uuid": "x", "mountpoints": [None]}
    root = {"path": "/dev/nvme0n1p1", "type": "part", "fstype": "vfat", "uuid": "AB-CD", "mountpoints": ["/boot/efi"]}
    disk = {"path": "/dev/nvme0n1", "name": "nvme0n1", "type": "disk", "pttype": "gpt", "children": [root, part]}
    path = tmp_path / "rebuild.sh"
    path.write_text(script([disk], {}, {}))
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
    text = path.read_text()
    assert "mkfs.vfat -i ABCD" in text
    assert '$(partition "$disk" 2)' in text
    assert 'mount "$device" "$top"/boot/efi' in text
    done = subprocess.run(["sh", str(path), "/dev/other=/x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # disks that are not named are left alone


def test_tools_that_are_not_there_are_told(tmp_path: Path) -> None:
    reports = Reports(str(tmp_path / "r"), 10)
    assert reports.ask("no-such-tool") == ""
    assert reports.ask("sh", "-c", "echo half; echo why >&2; exit 3") == "half\n"
    assert "no-such-tool" in reports.missing[0]
    assert "status 3 (why)" in reports.missing[1]
    (tmp_path / "file").touch()
    with pytest.raises(VssError, match="cannot be made"):
        Reports(str(tmp_path / "file" / "r"), 10)


def test_trees_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "lib" / "modules").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "var" / "lib" / "rpm").mkdir(parents=True)
    parts = parts_of(str(tmp_path), ())
    assert parts.state["software"] == [("/bin", "*", True), ("/lib", "*", True)]
    assert parts.state["packages"] == [("/var/lib/rpm", "*", True)]
    assert parts.layout["boot"] == [("/lib/modules", "*", True)]
    assert homes(str(tmp_path), ["/home"]) == []
    with pytest.raises(VssError, match="absolute path"):
        Settings(root="x").checked()
    with pytest.raises(VssError, match="no directory"):
        Settings(root=str(tmp_path / "none")).checked()
