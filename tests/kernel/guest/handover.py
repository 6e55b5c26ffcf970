"""Inside the guest: ext4 on /dev/nbd0 is written while its provider is replaced, and while it is killed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import threading
import time

from shadowset.nbd_provider.attach import client
from shadowset.nbd_provider.attach.main import main
from shadowset.nbd_provider.attach.netlink import connected

MOUNT, ORIGIN, STORAGE = "/mnt/fs", "/mnt/origin", "/mnt/storage"
NBD, CONTROL = "/run/nbd.sock", "/run/control.sock"
SIZE = 64 << 20


def step(text: str) -> None:
    print(f"{time.monotonic():8.2f} {text}", flush=True)


def start_provider(*options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shadowset.nbd_provider.main", "one", "--origin", ORIGIN, "--storage", STORAGE]
    command += ["--losses", "/run/losses"]
    return subprocess.Popen([*command, "--nbd", NBD, "--control", CONTROL, *options])


def wait_until_served(provider: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            client.connect(NBD, "one", 30)[0].close()
        except client.NbdError:
            assert provider.poll() is None
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the provider does not listen")


def attach_command(*arguments: str) -> None:
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        status = main([arguments[0], "one", "--runtime", "/run/one", *arguments[1:]])
    assert status == 0, err.getvalue()


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


class Writer(threading.Thread):
    """Files with fsync; ``waits`` are the seconds that each took."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.sums: dict[str, str] = {}
        self.error: OSError | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                name, content = f"{MOUNT}/file{len(self.waits) % 100}", os.urandom(30_000)
                begun = time.monotonic()
                with open(name, "wb") as file:
                    file.write(content)
                    os.fsync(file.fileno())
                self.waits.append(time.monotonic() - begun)
                self.sums[name] = hashlib.sha256(content).hexdigest()
                time.sleep(0.02)
        except OSError as error:
            self.error = error

    def goes_on(self) -> float:
        """The longest wait among the next files."""
        first, deadline = len(self.waits), time.monotonic() + 60
        while len(self.waits) < first + 5:
            assert self.error is None and time.monotonic() < deadline, self.error
            time.sleep(0.02)
        return max(self.waits[first:])


def hand_over(old: subprocess.Popen[bytes], writer: Writer) -> subprocess.Popen[bytes]:
    first = len(writer.waits)
    new = start_provider("--take-over")
    assert old.wait(60) == 0 and new.poll() is None
    writer.goes_on()
    step(f"handed over; the longest fsync meanwhile took {max(writer.waits[first:]) * 1000:.0f} ms")
    return new


def kill_and_reconnect(old: subprocess.Popen[bytes], writer: Writer) -> subprocess.Popen[bytes]:
    old.kill()
    old.wait()
    new = start_provider()
    wait_until_served(new)
    attach_command("reconnect")
    step(f"killed and connected again; the longest fsync took {writer.goes_on() * 1000:.0f} ms")
    return new


def everything() -> None:
    os.mkdir(MOUNT)
    with open(ORIGIN, "wb") as file:
        file.truncate(SIZE)
    provider = start_provider()
    wait_until_served(provider)
    attach_command("attach", "--nbd", NBD, "--via", "nbd")
    run("mkfs.ext4", "-q", "/dev/nbd0")
    run("mount", "/dev/nbd0", MOUNT)
    writer = Writer()
    writer.start()
    writer.goes_on()
    provider = hand_over(provider, writer)
    assert connected(0)
    provider = kill_and_reconnect(provider, writer)
    writer.stop.set()
    writer.join()
    assert writer.error is None
    with open("/sys/block/nbd0/stat", encoding="ascii") as file:
        step(f"statistics of the device: {file.read().split()}")
    run("umount", MOUNT)
    run("fsck.ext4", "-fn", "/dev/nbd0")
    run("mount", "/dev/nbd0", MOUNT)
    for name, digest in writer.sums.items():
        with open(name, "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == digest, name
    run("umount", MOUNT)
    attach_command("detach")
    provider.terminate()
    assert provider.wait(60) == 0
    kernel = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    assert "I/O error" not in kernel, kernel
    step(f"{len(writer.sums)} files verified")


if __name__ == "__main__":
    everything()
    step("all is well")
