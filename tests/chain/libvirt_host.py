"""A libvirtd of a test's own: its directories stand over the host's in a mount namespace, its sockets elsewhere.

It has no user, security driver or cgroup of its own, and starts guests under software emulation.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from qemu_guest import Guest

from shadowset.vss.codes import VssError
from shadowset.writers.qemu.domains import load

PLACES = {
    "run": "/run/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt", "log": "/var/log/libvirt",
    "etc": "/etc/libvirt",
}  # fmt: skip
START_SECONDS = 90.0
QEMU_CONF = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""
USERS = {"/etc/passwd": {"libvirt-qemu": "libvirt-qemu:x:0:0::/:/bin/false"},
         "/etc/group": {"kvm": "kvm:x:0:", "libvirt-qemu": "libvirt-qemu:x:0:"}}  # fmt: skip


def lacking() -> str:
    """What is not installed; empty when all is."""
    if shutil.which("libvirtd") is None:
        return "libvirtd (Debian: libvirt-daemon, libvirt-daemon-driver-qemu)"
    try:
        load()
    except VssError as error:
        return error.message
    return ""


class LibvirtHost:
    """``top`` is a directory on a disk, ``runtime`` one with a short name for sockets."""

    def __init__(self, top: Path, runtime: str) -> None:
        self._top, self._runtime = top, runtime
        self.uri = f"qemu:///system?socket={runtime}/libvirt-sock"
        self._made = [path for path in PLACES.values() if not os.path.isdir(path)]
        for path in self._made:
            os.makedirs(path)
        for name in PLACES:
            (top / name).mkdir(parents=True)
        (top / "etc" / "qemu.conf").write_text(QEMU_CONF)
        (top / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{runtime}"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\nlog_outputs = "3:stderr"\n'
        )
        self._script = top / "start.sh"
        self._script.write_text(self._make_script())
        self.process: subprocess.Popen[bytes] | None = None

    def _make_script(self) -> str:
        mounts = {str(self._top / name): path for name, path in PLACES.items()}
        for path, users in USERS.items():
            copy = self._top / os.path.basename(path)
            known = {line.partition(":")[0] for line in Path(path).read_text().splitlines()}
            added = "".join(f"{line}\n" for name, line in users.items() if name not in known)
            copy.write_text(Path(path).read_text() + added)
            mounts[str(copy)] = path
        lines = [f"mount --bind {source} {target}" for source, target in mounts.items()]
        return "\n".join(["set -e", *lines, f"exec libvirtd -f {self._top}/libvirtd.conf -p {self._top}/pid\n"])

    def start(self) -> None:
        """Until it answers."""
        with open(self._top / "libvirtd.log", "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "slave", "sh", str(self._script)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            words = (self._top / "libvirtd.log").read_text()[-2000:]
            assert self.process.poll() is None, words
            assert time.monotonic() < end, words
            time.sleep(0.1)

    def _answers(self) -> bool:
        libvirt = load()
        try:
            libvirt.open(self.uri).close()
        except libvirt.libvirtError:
            return False
        return True

    def open(self) -> Any:
        return load().open(self.uri)

    def pid_of(self, guest: str) -> int:
        """The process of a guest that runs."""
        return int((self._top / "run" / "qemu" / f"{guest}.pid").read_text())

    def kill(self) -> None:
        """It ends at once; its guests go on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def end(self) -> None:
        """No guest and no process of it is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(60)
        for file in (self._top / "run" / "qemu").glob("*.pid"):
            _kill(int(file.read_text()))
        for path in self._made:
            os.rmdir(path)


def _kill(pid: int) -> None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"qemu-system" in words:
            os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended


class LibvirtGuest(Guest):
    """A guest whose domain is defined; ``image`` is its disk. Without an ``initramfs`` it boots nothing."""

    def __init__(
        self, host: LibvirtHost, kernel: Path, initramfs: Path, runtime: str, image: str, kind: str = "raw",
        name: str = "web", agent: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(kernel, initramfs, runtime, [image], name)
        self.host = host
        channel = f"<channel type='unix'><source mode='bind' path='{self.agent}'/>"
        channel += "<target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        self.xml = f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel><initrd>{initramfs}</initrd>
            <cmdline>console=ttyS0 quiet panic=-1</cmdline></os><on_reboot>destroy</on_reboot>
            <devices><emulator>{shutil.which("qemu-system-x86_64")}</emulator>
            <disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{image}'/>
            <target dev='vda' bus='virtio'/></disk>
            <serial type='file'><source path='{self.console}'/><target port='0'/></serial>
            <graphics type='vnc' socket='{runtime}/vnc-{name}' passwd='secret'/>
            {channel if agent else ""}<memballoon model='none'/></devices></domain>"""

    def define(self) -> None:
        self.host.open().defineXML(self.xml)

    def domain(self) -> Any:
        return self.host.open().lookupByName(self.name)

    def wait_for_agent(self) -> None:
        """A daemon that has just been started connects to it again."""
        libvirt, end = load(), time.monotonic() + START_SECONDS
        while True:
            try:
                self.domain().getTime()
            except libvirt.libvirtError as error:
                assert time.monotonic() < end, error
                time.sleep(0.1)
            else:
                return

    def start(self) -> None:
        Path(self.console).write_text("")
        self.domain().create()

    def problem(self) -> str:
        return ""  # libvirt may be away while the guest runs

    def end(self) -> None:
        domain = self.domain()
        if domain.isActive():
            domain.destroy()
