"""A Debian system that is gone: its disk made anew by rebuild.sh, its files restored into it, and booted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu_guest import BOOT_DISK, BOOT_SECONDS, Guest, missing, unpack

PROOF = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/usr/local/bin/proof
[Install]
WantedBy=default.target
"""


SCRIPT = """#!/bin/sh
echo "back: $(cat /etc/hostname), $(dpkg --audit | wc -l) faults, $(findmnt -no UUID /) $(id -un 1000)"
"""


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[list[str]]:
    """Two loop devices: the disk that was, with a file system, and an empty one."""
    top = tempfile.mkdtemp(prefix="ss-boot-", dir="/var/tmp")
    made: list[str] = []
    for name in ("old", "new"):
        with open(f"{top}/{name}.img", "wb") as file:
            file.truncate(900 << 20)
        command = ["losetup", "-f", "--show", f"{top}/{name}.img"]
        made.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    subprocess.run(["mkfs.ext4", "-q", made[0]], check=True, timeout=60)
    yield made
    for device in made:
        subprocess.run(["umount", device], stderr=subprocess.DEVNULL, timeout=60, check=False)
        subprocess.run(["losetup", "-d", device], timeout=60, check=False)
    shutil.rmtree(top, ignore_errors=True)


def install(tree: str, uuid: str) -> None:
    """Debian, with a user, a host name, and a unit that tells that all of it is there."""
    packages = "systemd,systemd-sysv,udev,mount"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", tree]
    subprocess.run([*command, "http://deb.debian.org/debian"], check=True, stdout=subprocess.DEVNULL, timeout=900)
    Path(f"{tree}/etc/hostname").write_text("phoenix\n")
    Path(f"{tree}/etc/fstab").write_text(f"UUID={uuid} / ext4 defaults 0 1\n")
    with open(f"{tree}/etc/passwd", "a", encoding="utf-8") as file:
        file.write("ada:x:1000:1000::/home/ada:/bin/sh\n")
    Path(f"{tree}/etc/systemd/system/proof.service").write_text(PROOF)
    script = Path(f"{tree}/usr/local/bin/proof")
    script.write_text(SCRIPT)
    script.chmod(0o755)
    subprocess.run(["systemctl", f"--root={tree}", "-q", "enable", "proof.service"], check=True, timeout=60)


@pytest.mark.long
@pytest.mark.vss(139)
@pytest.mark.timeout(1800)
def test_a_lost_system_boots_again(chain: Any, disks: list[str], wait_until: Any, tmp_path: Path) -> None:
    if lacking := missing() or ("" if shutil.which("debootstrap") else "debootstrap"):
        pytest.skip(f"not installed: {lacking}")
    old, new = disks
    uuid = subprocess.run(["blkid", "-p", "-o", "value", "-s", "UUID", old], capture_output=True, text=True, check=True)
    chain.add_volumes((("one", "ext4", 900 << 20),))
    tree = f"{chain.places['one']}/system"
    install(tree, uuid.stdout.strip())
    config = tmp_path / "system.toml"
    config.write_text(f'root = "{tree}"\ndisks = ["{old}"]\n')
    chain.module("shadowset.writers.system.main", "--config", str(config))
    wait_until("the writers", lambda: len(chain.cli("writers")) == 3)
    chain.cli("backup", f"{chain.directory}/backup")
    shutil.rmtree(tree)

    assert chain.cli("restore", f"{chain.directory}/backup", "--to", f"{chain.directory}/to")["succeeded"]
    restored = f"{chain.directory}/to{tree}"
    rebuild = f"{restored}/var/lib/shadowset/system-state/disk-layout/rebuild.sh"
    place = tmp_path / "new"
    place.mkdir()
    subprocess.run(["sh", rebuild, f"{old}={new}"], check=True, timeout=60)
    subprocess.run(["mount", new, place], check=True, timeout=60)
    subprocess.run(["cp", "-a", f"{restored}/.", place], check=True, timeout=300)
    for name in ("proc", "sys", "dev", "run", "tmp", "var/log"):
        os.makedirs(place / name, exist_ok=True)
    subprocess.run(["umount", place], check=True, timeout=60)

    runtime = tempfile.mkdtemp(prefix="ss-vm-", dir="/tmp")
    words = f"disk=UUID={uuid.stdout.strip()} systemd.mask=serial-getty@ttyS0.service"
    guest = Guest(*unpack(tmp_path, BOOT_DISK), runtime, [f"file={new},format=raw"], words=words)
    try:
        guest.start()
        end = time.monotonic() + 2 * BOOT_SECONDS
        while "back: " not in guest.said():
            assert guest.process is not None
            assert guest.process.poll() is None, guest.said()[-2000:]
            assert time.monotonic() < end, guest.said()[-2000:]
            time.sleep(0.5)
        assert re.search(f"back: phoenix, 0 faults, {uuid.stdout.strip()} ada", guest.said())
    finally:
        guest.end()
        shutil.rmtree(runtime, ignore_errors=True)
