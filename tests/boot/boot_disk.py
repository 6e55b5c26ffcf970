"""The disk that the machines of this lane boot from: Debian 12 with systemd, made once, and kept below build/boot."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / "build" / "boot"
MODULES = Path("/usr/lib/uml/modules")
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "systemd,systemd-sysv,udev,dbus,kmod,mount,passwd,procps,iproute2,e2fsprogs,xfsprogs,"
    "python3,fuse3,libfuse3-3,sqlite3,attr"
)
SIZE = 3 << 30
AGENT = """[Unit]
Description=What the tests talk to
DefaultDependencies=no
After=systemd-remount-fs.service systemd-udevd.service
[Service]
ExecStart=/bin/sh -c 'mount -t hostfs none /exchange -o "$${exchange}" && exec python3 /exchange/agent.py'
Restart=always
[Install]
WantedBy=sysinit.target
"""
# No log-in, nothing that waits for a network or runs by itself once a day.
MASKED = "getty.target console-getty.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer"


def missing() -> str:
    """What this host lacks for it, or ""."""
    lacking = [name for name in ("debootstrap", "mkfs.ext4", "linux.uml", "dpkg-deb") if shutil.which(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    if not MODULES.is_dir():
        return f"no modules in {MODULES}"
    return "" if os.geteuid() == 0 else "needs root"


def image() -> Path:
    """The disk's image, which nobody may change; minutes when it has to be made. Errors: CalledProcessError."""
    told = (PACKAGES, str(SIZE), AGENT, MASKED, " ".join(os.listdir(MODULES)))
    name = hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]
    KEPT.mkdir(parents=True, exist_ok=True)
    with open(KEPT / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = KEPT / f"debian-{name}.img"
        if not kept.exists():
            for old in KEPT.glob("debian-*"):
                old.unlink()
            _make(kept)
    return kept


def _make(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ss-debian-", dir="/var/tmp") as scratch:
        tree = Path(scratch) / "tree"
        _install(tree)
        _adapt(tree)
        unfinished = target.with_suffix(".unfinished")
        with open(unfinished, "wb") as file:
            file.truncate(SIZE)
        command = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", "-d", tree, unfinished]
        subprocess.run(command, check=True, timeout=600)
        unfinished.rename(target)


def _install(tree: Path) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(tree), MIRROR]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800, check=False)
    if done.returncode:
        raise RuntimeError(f"debootstrap ended with {done.returncode}: {done.stdout.decode(errors='replace')[-2000:]}")
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)


def _adapt(tree: Path) -> None:
    for release in MODULES.iterdir():
        shutil.copytree(release, tree / "lib/modules" / release.name, symlinks=True)
    (tree / "etc/hostname").write_text("guest\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost guest\n")
    (tree / "etc/fstab").write_text("/dev/ubda / ext4 errors=remount-ro 0 1\n")
    (tree / "var/log/journal").mkdir(exist_ok=True)
    (tree / "etc/systemd/system/agent.service").write_text(AGENT)
    (tree / "exchange").mkdir()
    for words in (["enable", "agent.service"], ["mask", *MASKED.split()]):
        subprocess.run(["systemctl", f"--root={tree}", "-q", *words], check=True, timeout=60)
