"""A real guest under software emulation: Debian's kernel, busybox, qemu-ga, and ext4 that a program writes to."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("qemu-system-x86_64", "qemu-img", "busybox", "cpio", "dpkg-deb", "mkfs.ext4")
MODULES = "virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console"
KERNEL, AGENT = "linux-image-*.deb", "qemu-guest-agent_*.deb"
PACKAGES = Path(__file__).resolve().parents[2] / "build" / "guest"
BOOT_SECONDS = 150.0
BOOT_DISK = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod /$module.ko; done
mount -t ext4 -o ro $(findfs $(sed 's/.*disk=//; s/ .*//' /proc/cmdline)) /new
umount /proc /sys
exec switch_root /new /sbin/init
"""
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod /$module.ko; done
mount -t ext4 /dev/vda /data || echo "no data disk"
qemu-ga -m virtio-serial -p /dev/vport0p1 -t /run &
echo "guest is up"
number=0
while :; do
    number=$((number + 1))
    printf '%08d' $number | dd of=/data/count conv=notrunc,fsync status=none && echo "wrote $number"
done
"""


def missing() -> str:
    """What is not installed; empty when all is."""
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    lacking += [f"{PACKAGES}/{name}" for name in (KERNEL, AGENT) if not list(PACKAGES.glob(name))]
    return ", ".join(lacking)


def unpack(work: Path, init: str = INIT) -> tuple[Path, Path]:
    """Kernel and initial file system of the guests; ``init`` is what they begin with."""
    packages = work / "packages"
    for name in (KERNEL, AGENT):
        subprocess.run(["dpkg-deb", "-x", max(PACKAGES.glob(name)), packages], check=True, timeout=120)
    (kernel,) = packages.glob("boot/vmlinuz-*")
    return kernel, make_initramfs(packages, work / "root", work / "initramfs", init)


def make_initramfs(packages: Path, root: Path, image: Path, init: str) -> Path:
    for name in ("bin", "new", "proc", "sys", "dev", "data", "run", "lib64", "var/log"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
    copy_program(packages / "usr" / "sbin" / "qemu-ga", root)
    for name in MODULES.split():
        (found,) = packages.rglob(f"{name}.ko")
        shutil.copy(found, root)
    (root / "modules").write_text(MODULES)
    (root / "init").write_text(init)
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), capture_output=True, check=True
    ).stdout
    image.write_bytes(gzip.compress(archive, 1))
    return image


def copy_program(program: Path, root: Path) -> None:
    """A program, to /bin, and this host's libraries for it, under their own paths."""
    shutil.copy(program, root / "bin")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "not found" not in listed, listed
    for path in re.findall(r"(/\S+) \(0x", listed):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


class Guest:
    """One guest, with its disks; ``disks`` are image files or what else ``-drive file=`` takes."""

    def __init__(
        self, kernel: Path, initramfs: Path, runtime: str, disks: list[str], name: str = "web", words: str = ""
    ) -> None:
        self.name, self.runtime, self.disks = name, runtime, disks
        self.qmp, self.agent, self.console = f"{runtime}/qmp", f"{runtime}/ga", f"{runtime}/console"
        self.command = [
            "qemu-system-x86_64", "-name", name, "-accel", "tcg", "-m", "256", "-display", "none", "-no-reboot",
            "-nodefaults", "-kernel", str(kernel), "-initrd", str(initramfs),
            "-append", f"console=ttyS0 quiet panic=-1 {words}",
            "-serial", f"file:{self.console}",
            "-qmp", f"unix:{self.qmp},server=on,wait=off",
            "-chardev", f"socket,id=ga,path={self.agent},server=on,wait=off", "-device", "virtio-serial",
            "-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
        ]  # fmt: skip
        for disk in disks:
            self.command += ["-drive", f"if=virtio,{disk}"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        Path(self.console).write_text("")
        with open(f"{self.runtime}/log", "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def said(self) -> str:
        return Path(self.console).read_text(errors="replace")

    def wait_for_writes(self, number: int = 3) -> int:
        """Until the program in the guest has written this often from now on; the last number that it told."""
        first = self.count()
        end = time.monotonic() + BOOT_SECONDS
        while self.count() < first + number:
            assert not self.problem(), self.problem()
            assert time.monotonic() < end, f"the guest stands still; it last said {self.said()[-2000:]}"
            time.sleep(0.05)
        return self.count()

    def problem(self) -> str:
        """Why it cannot write any more; empty while it runs."""
        if self.process is not None and self.process.poll() is None:
            return ""
        return f"the guest has ended: {Path(f'{self.runtime}/log').read_text()}"

    def count(self) -> int:
        numbers = re.findall(r"wrote (\d+)\r?\n", self.said())
        return int(numbers[-1]) if numbers else 0

    def ask_qmp(self, command: str) -> object:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(self.qmp)
            stream = sock.makefile("rw")
            stream.readline()
            for each in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": each}) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
            return answer

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)


def make_data_disk(path: str, size: int = 64 << 20) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", path], check=True, timeout=60)


def count_in(image: str) -> int:
    """What the program had written, in a file system that needs no replay of its journal and is sound."""
    header = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "needs_recovery" not in header, "the file system needs_recovery"
    check = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stdout
    command = ["debugfs", "-R", "cat /count", image]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
