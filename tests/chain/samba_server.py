"""A Samba server of a test's own: smbd on a port of its own, below one directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("smbd", "smbclient", "testparm", "smbpasswd", "rpcclient")


def installed() -> bool:
    return all(shutil.which(program) or os.path.exists(f"/usr/sbin/{program}") for program in NEEDED)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Samba:
    """The user is root, with the password in ``credentials``."""

    def __init__(self, top: str, environment: dict[str, str]) -> None:
        self.top, self.port = top, free_port()
        self.environment = environment
        self.conf = f"{top}/smb.conf"
        self.credentials = f"{top}/credentials"
        Path(self.credentials).write_text("username = root\npassword = pw\n")
        os.chmod(self.credentials, 0o600)
        for name in ("lock", "state", "cache", "pid", "private", "rpc", "log"):
            os.makedirs(f"{top}/{name}", mode=0o755, exist_ok=True)
        self.shares = ""
        self._write()
        subprocess.run(
            ["smbpasswd", "-c", self.conf, "-s", "-a", "root"], input="pw\npw\n", text=True,
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip

    def _write(self) -> None:
        Path(self.conf).write_text(
            f"""[global]
    server role = standalone server
    netbios name = SSTEST
    smb ports = {self.port}
    interfaces = lo
    bind interfaces only = yes
    disable netbios = yes
    lock directory = {self.top}/lock
    state directory = {self.top}/state
    cache directory = {self.top}/cache
    pid directory = {self.top}/pid
    private dir = {self.top}/private
    ncalrpc dir = {self.top}/rpc
    registry shares = yes
    include = registry
    admin users = root
    fss:sequence timeout = 5
{self.shares}"""
        )

    def start(self, shares: str) -> None:
        self.shares = shares
        self._write()
        subprocess.run(
            ["/usr/sbin/smbd", "-D", "-s", self.conf, "-l", f"{self.top}/log"],
            check=True, timeout=60, env=self.environment,
        )  # fmt: skip
        end = time.monotonic() + 60
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < end, "smbd does not listen"
            time.sleep(0.05)

    def stop(self) -> None:
        """smbd, and the RPC servers that outlive it."""
        for name in ("smbd", "samba-dcerpcd"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(Path(f"{self.top}/pid/{name}.pid").read_text())
                os.kill(pid, signal.SIGTERM)
                end = time.monotonic() + 20
                while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
                    time.sleep(0.02)
                if os.path.exists(f"/proc/{pid}"):
                    os.kill(pid, signal.SIGKILL)
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[int]:
        """Helpers of smbd that have not noticed its end."""
        left = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if self.conf.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    left.append(int(pid))
        return left

    def client(self, share: str, words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["smbclient", "-s", self.conf, "-p", str(self.port), "-A", self.credentials, f"//127.0.0.1/{share}",
             "-c", words],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def rpc(self, words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["rpcclient", "-s", self.conf, "-p", str(self.port), "-A", self.credentials, "ncacn_np:127.0.0.1[sign]",
             "-c", words],
            capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
