"""A Debian with systemd as its first process, in user-mode-linux: booted, spoken to, shut down, or cut off."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

BOOT_S = 600.0
COMMAND_S = 300.0


class Machine:
    """Its disks last until ``remove``; it can be started and ended as often as one likes.

    The host's directory ``exchange`` is the guest's ``/exchange``.
    """

    def __init__(self, image: Path, disks: tuple[int, ...] = (), memory: str = "768M") -> None:
        self.place = Path(tempfile.mkdtemp(prefix="ss-boot-", dir="/var/tmp"))
        self.runtime = Path(tempfile.mkdtemp(prefix="ss-boot-", dir="/tmp"))
        self.exchange = self.place / "exchange"
        self.exchange.mkdir()
        shutil.copyfile(Path(__file__).with_name("agent.py"), self.exchange / "agent.py")
        self.memory = memory
        self.disks = [f"ubda={self.place}/root.cow,{image}"]
        for number, size in enumerate(disks):
            with open(self.place / f"disk{number}", "wb") as file:
                file.truncate(size)
            self.disks.append(f"ubd{chr(ord('b') + number)}={self.place}/disk{number}")
        self.boots = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._waiting = b""
        self._number = 0

    # ---- the machine as a whole ----

    def boot(self, *words: str, settle: bool = True) -> str:
        """Start it; what ``systemctl is-system-running`` says once it has settled."""
        self.boots += 1
        self._waiting = b""
        ours, theirs = socket.socketpair()
        command = ["linux.uml", f"mem={self.memory}", *self.disks, "root=/dev/ubda", "rw", f"uml_dir={self.runtime}"]
        command += ["con=null", "con0=null,fd:1", f"ssl0=fd:{theirs.fileno()}", "panic=1", "quiet"]
        command += [f"systemd.setenv=exchange={self.exchange}", *words]
        with open(self._console(), "wb") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=(theirs.fileno(),), env={**os.environ, "TMPDIR": str(self.runtime)},
            )  # fmt: skip
        theirs.close()
        self._line = ours
        self._until("@ready", BOOT_S)
        return self.run("systemctl is-system-running --wait", False, BOOT_S) if settle else ""

    def _console(self) -> Path:
        return self.place / f"console{self.boots}"

    def console(self) -> str:
        """What the kernel and systemd said since the last start."""
        return self._console().read_text(errors="replace").replace("\r", "")

    def end(self, how: str = "poweroff", patience: float = 400) -> float:
        """Shut it down cleanly; how many seconds that took. Errors: AssertionError when it does not end."""
        assert self._process is not None
        started = time.monotonic()
        self._send(f"systemctl {how} --no-block")
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not shut down in {patience} s:\n{self.console()[-6000:]}") from None
        took = time.monotonic() - started
        self.cut()
        return took

    def cut(self) -> None:
        """As when the power fails: its memory is gone, its disks have what they were given."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait(30)
            self._process = None
        if self._line is not None:
            self._line.close()
            self._line = None

    def copy_of(self, other: Machine) -> None:
        """Begin with the root disk of another one, which is off."""
        command = ["cp", "--sparse=always", other.place / "root.cow", self.place / "root.cow"]
        subprocess.run(command, check=True, timeout=120)

    def remove(self) -> None:
        """End it and take its disks away."""
        self.cut()
        shutil.rmtree(self.runtime, ignore_errors=True)
        shutil.rmtree(self.place, ignore_errors=True)

    # ---- what it is told ----

    def run(self, command: str, check: bool = True, timeout: float = COMMAND_S) -> str:
        """Output of a shell command in the guest. Errors: AssertionError when it fails, with the journal's end."""
        status, output = self.status(command, timeout)
        if check and status:
            _, journal = self.status("journalctl -b --no-pager -o short-monotonic -n 60", timeout)
            raise AssertionError(f"{command!r} ended with {status}: {output}\n--- journal ---\n{journal}")
        return output.rstrip("\n")

    def status(self, command: str, timeout: float = COMMAND_S) -> tuple[int, str]:
        """Exit status of a shell command in the guest, and its output."""
        number = self._send(f"timeout {timeout:g} sh -c {shlex.quote(command)}")
        answer = json.loads(self._until(f'@{{"number": {number},', timeout + 60, command)[1:])
        return answer["status"], answer["output"]

    def protect(self, name: str, device: str, place: str, *options: str) -> None:
        """A new ext4 on a volume, mounted there now and at each boot, in the way of the manual."""
        self.run(f"mkfs.ext4 -q {device} && mkdir -p {place}")
        self.run(f"shadowset volume add {name} {device} {shlex.join(options)} && shadowset volume attach {name}")
        self.run(f"shadowset volume fstab {name} {place} >>/etc/fstab && systemctl daemon-reload")
        self.run(f"systemctl start {place.strip('/').replace('/', '-')}.mount")

    def journal(self, unit: str = "", boot: int = 0) -> str:
        """The journal of a boot (0 this one, -1 the one before), or of a unit in it."""
        of = f"-u {unit}" if unit else ""
        return self.run(f"journalctl --no-pager -o short-monotonic -b {boot} {of}", check=False)

    def wait(self, what: str, command: str, timeout: float = COMMAND_S) -> str:
        """Output of ``command`` once it succeeds. Errors: AssertionError with the journal's end."""
        end = time.monotonic() + timeout
        while True:
            status, output = self.status(command)
            if not status:
                return output.rstrip("\n")
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not come: {output}\n--- journal ---\n{self.journal()[-6000:]}")
            time.sleep(0.3)

    def _send(self, command: str) -> int:
        assert self._line is not None
        self._number += 1
        self._line.sendall(json.dumps({"number": self._number, "command": command}).encode() + b"\n")
        return self._number

    def _until(self, beginning: str, timeout: float, doing: str = "booting") -> str:
        """The line of the agent's that begins so."""
        assert self._line is not None and self._process is not None
        end = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        while True:
            *lines, self._waiting = self._waiting.split(b"\n")
            for at, line in enumerate(lines):
                if line.startswith(beginning.encode()):
                    self._waiting = b"\n".join([*lines[at + 1 :], self._waiting])
                    return line.decode()
            if poll.poll(500):
                data = self._line.recv(65536)
                self._waiting += data
            if self._process.poll() is not None or time.monotonic() > end:
                state = "ended" if self._process.poll() is not None else f"said nothing for {timeout} s"
                raise AssertionError(f"the machine {state} while {doing}:\n{self.console()[-6000:]}")
