"""Inside the guest: the whole life of volumes that are attached through the kernel's nbd.

Argument: the NBD server to use, ``nbdkit`` or ``qemu-nbd``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Any

from shadowset.nbd_provider.attach import client, loop, netlink, state
from shadowset.nbd_provider.attach.main import main

MIB = 1 << 20
SIZE = 64 * MIB
MOUNT = "/mnt/fs"


class Server:
    """An NBD server for one volume."""

    def __init__(self, name: str) -> None:
        self.image = f"/mnt/{name}.img"
        self.socket = f"/run/{name}.sock"
        self._name = name
        with open(self.image, "wb") as file:
            file.truncate(SIZE)
        self.start()

    def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        command = {
            "nbdkit": ["nbdkit", "-f", "-U", self.socket, "file", self.image],
            "qemu-nbd": ["qemu-nbd", "-t", "-k", self.socket, "-x", self._name, "-f", "raw", "--shared=8", self.image],
        }[sys.argv[1]]
        self.process = subprocess.Popen(command)
        for _ in range(400):
            try:
                sock, self.export = client.connect(self.socket, self._name, 10)
            except client.NbdError:
                time.sleep(0.05)
            else:
                sock.close()
                return
        raise AssertionError("the server does not listen")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def call(*arguments: str) -> tuple[int, str, str]:
    """The command in this process: starting Python is slow here."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(arguments))
    return status, out.getvalue(), err.getvalue()


def attach(name: str, server: Server, *options: str) -> dict[str, Any]:
    status, out, err = call("attach", name, "--nbd", server.socket, "--runtime", f"/run/{name}", *options)
    assert status == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer


def detach(name: str, *options: str) -> tuple[int, str, str]:
    return call("detach", name, "--runtime", f"/run/{name}", *options)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def step(text: str) -> None:
    print(f"{time.monotonic():8.2f} {text}", flush=True)


def write_files(stop: threading.Event, sums: dict[str, str], errors: list[BaseException]) -> None:
    source = random.Random(1)
    try:
        for number in range(100_000):
            if stop.is_set():
                return
            content = source.randbytes(source.randrange(1, 60_000))
            with open(f"{MOUNT}/file{number}", "wb") as file:
                file.write(content)
                os.fsync(file.fileno())
            sums[f"file{number}"] = hashlib.sha256(content).hexdigest()
            time.sleep(0.01)
    except OSError as error:
        errors.append(error)


def check_attach(server: Server) -> str:
    started = time.monotonic()
    answer = attach("one", server, "--via", "auto")
    step(f"attached in {time.monotonic() - started:.3f} s: {answer}")
    assert answer == {"device": "/dev/nbd0", "via": "nbd", "pid": 0}
    assert netlink.backend(0) == "shadowset-one" and netlink.connected(0) and not netlink.connected(1)
    assert (loop.device_size("/dev/nbd0"), loop.sector_size("/dev/nbd0")) == (SIZE, server.export.sector_size)
    assert os.readlink("/dev/shadowset/one") == "/dev/nbd0"
    assert attach("one", server, "--via", "nbd") == answer
    status, _, err = call("attach", "one", "--nbd", server.socket, "--runtime", "/run/one", "--via", "fuse")
    assert status == 1 and "detach it first" in err, err
    return str(answer["device"])


def check_kill_and_reconnect(server: Server, device: str) -> None:
    os.mkdir(MOUNT)
    run("mkfs.ext4", "-q", device)
    run("mount", device, MOUNT)
    stop, sums, errors = threading.Event(), {}, []
    writer = threading.Thread(target=write_files, args=(stop, sums, errors))
    writer.start()
    for round_number in range(2):
        time.sleep(0.7)
        server.kill()
        time.sleep(1)
        waiting = len(sums)
        server.start()
        status, _, err = call("reconnect", "one", "--runtime", "/run/one")
        assert status == 0, err
        started = time.monotonic()
        while len(sums) == waiting:
            assert time.monotonic() - started < 10, "writes do not go on"
            time.sleep(0.05)
        step(f"writes go on after {time.monotonic() - started:.1f} s")
        time.sleep(0.5)
        step(f"round {round_number}: {waiting} files before, {len(sums)} after")
    refused = detach("one")
    assert refused[0] == 1 and MOUNT in refused[2] and device in refused[2], refused
    stop.set()
    writer.join()
    assert not errors, errors
    run("umount", MOUNT)
    run("fsck.ext4", "-fn", device)
    run("mount", device, MOUNT)
    for name, digest in sums.items():
        with open(f"{MOUNT}/{name}", "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == digest, name
    run("umount", MOUNT)
    step(f"{len(sums)} files verified")


def check_requests_under_way(server: Server, device: str) -> None:
    """Sixteen writers, each with one request at the server, when it is stopped, killed and replaced."""
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    written = 0

    def write(lane: int) -> None:
        nonlocal written
        buffer = mmap.mmap(-1, 4096)
        for number in range(40):
            buffer[:] = bytes([lane * 16 + number % 16]) * 4096
            assert os.pwrite(fd, buffer, lane * MIB + number * 4096) == 4096
            written += 1
            if number == 10:
                barrier.wait()

    barrier = threading.Barrier(17)
    lanes = [threading.Thread(target=write, args=(lane,)) for lane in range(16)]
    for lane in lanes:
        lane.start()
    barrier.wait()
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    before = written
    server.kill()
    server.start()
    assert call("reconnect", "one", "--runtime", "/run/one")[0] == 0
    started = time.monotonic()
    for lane in lanes:
        lane.join()
    os.close(fd)
    step(f"{before} writes before, all {written} done {time.monotonic() - started:.1f} s after the reconnect")
    assert before < written == 16 * 40 and time.monotonic() - started < 15
    with open(server.image, "rb") as file:
        content = file.read()
    for lane in range(16):
        for number in range(40):
            at = lane * MIB + number * 4096
            assert content[at : at + 4096] == bytes([lane * 16 + number % 16]) * 4096, (lane, number)


def check_detach(server: Server) -> None:
    with open("/dev/nbd0", "r+b") as file:
        file.write(b"last words".ljust(4096))
    status, _, err = detach("one")
    assert status == 0, err
    assert not netlink.connected(0) and netlink.size(0) == 0
    assert os.listdir("/run/one") == [] and os.listdir("/dev/shadowset") == []
    with open(server.image, "rb") as file:
        assert file.read(10) == b"last words"
    assert detach("one")[0] == 0
    step("detached")


def check_two_volumes(server: Server) -> None:
    other = Server("two")
    assert attach("one", server)["device"] != attach("two", other)["device"]
    assert detach("one")[0] == detach("two")[0] == 0
    other.kill()
    step("two at once")


def check_failures(server: Server) -> None:
    status, out, err = call("attach", "one", "--nbd", "/run/none.sock", "--runtime", "/run/one")
    assert status == 1 and not out and "start the provider" in err, err
    assert os.listdir("/run/one") == [] and not netlink.indices_of("shadowset-one")
    attach("one", server)
    saved = state.load("/run/one")
    assert saved is not None
    saved.index, saved.device = -1, ""
    state.save("/run/one", saved)
    attach("one", server)
    assert len(netlink.indices_of("shadowset-one")) == 1
    step("what an unfinished attach left is gone")
    server.kill()
    status, _, err = detach("one")
    assert status == 1 and "--force" in err, err
    status, _, err = detach("one", "--force")
    assert status == 0, err
    server.start()
    step("forced without a server")


def check_dead_time(server: Server) -> None:
    attach("one", server, "--dead-time", "2")
    fd = os.open("/dev/nbd0", os.O_RDWR | os.O_SYNC)
    os.pwrite(fd, b"a" * 4096, 0)
    server.kill()
    started = time.monotonic()
    try:
        os.pwrite(fd, b"b" * 4096, 0)
    except OSError as error:
        step(f"dead after {time.monotonic() - started:.1f} s: {error}")
        assert time.monotonic() - started > 1.5
    else:
        raise AssertionError("a write to a dead server succeeded")
    os.close(fd)
    assert detach("one", "--force")[0] == 0
    server.start()


def check_partitions(server: Server) -> None:
    """A table with one partition, of sectors 2048 to 10239."""
    with open(server.image, "r+b") as file:
        file.seek(446)
        file.write(struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 8192) + bytes(48) + b"\x55\xaa")
    for via in ("nbd", "fuse"):
        device = attach("one", server, "--via", via)["device"]
        partition = f"{device}p1"
        for _ in range(200):
            if os.path.exists(partition):
                break
            time.sleep(0.05)
        assert loop.device_size(partition) == 8192 * 512, via
        run("mkfs.ext4", "-q", partition)
        run("mount", partition, MOUNT)
        status, _, err = detach("one")
        assert status == 1 and MOUNT in err, err
        run("umount", MOUNT)
        assert detach("one")[0] == 0
    with open(server.image, "r+b") as file:
        file.write(bytes(512))
    step("partitions both ways")


def check_fuse_way(server: Server) -> None:
    """Also its protection, of which a container's kernel often allows the less."""
    run("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
    started = time.monotonic()
    answer = attach("one", server, "--via", "fuse")
    step(f"attached in {time.monotonic() - started:.3f} s: {answer}")
    assert answer["via"] == "fuse" and answer["device"].startswith("/dev/loop")
    run("mkfs.ext4", "-q", answer["device"])
    with open("/run/one/bridge.log", encoding="utf-8") as file:
        assert "without protection" not in file.read()
    with open(f"/proc/{answer['pid']}/cgroup", encoding="ascii") as file:
        assert file.read().endswith("0::/shadowset-bridge-one\n")
    assert detach("one")[0] == 0
    assert not os.path.exists("/sys/fs/cgroup/shadowset-bridge-one")


def everything() -> None:
    server = Server("one")
    step(f"{sys.argv[1]} serves {server.export}")
    device = check_attach(server)
    check_kill_and_reconnect(server, device)
    check_requests_under_way(server, device)
    check_detach(server)
    check_two_volumes(server)
    check_failures(server)
    check_dead_time(server)
    check_partitions(server)
    check_fuse_way(server)
    server.kill()


if __name__ == "__main__":
    everything()
    step("all is well")
