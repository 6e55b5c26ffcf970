"""Inside the guest: a mounted ext4 grows with its volume, attached both ways; a shadow copy from before stays exact."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any
from uuid import UUID, uuid4

from shadowset.nbd_provider.attach import client, loop
from shadowset.nbd_provider.attach.main import main
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.vss import provider_protocol as m
from shadowset.vss.wire import FrameDecoder, encode

MIB = 1 << 20
SIZE = 32 * MIB
MOUNT = "/mnt/fs"
ORIGIN, STORAGE, NBD, CONTROL = "/mnt/origin", "/mnt/storage", "/run/nbd.sock", "/run/control.sock"


def start_provider() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shadowset.nbd_provider.main", "one", "--origin", ORIGIN, "--storage", STORAGE]
    provider = subprocess.Popen([*command, "--nbd", NBD, "--control", CONTROL])
    for _ in range(600):
        try:
            client.connect(NBD, "one", 30)[0].close()
        except client.NbdError:
            assert provider.poll() is None
            time.sleep(0.05)
        else:
            return provider
    raise AssertionError("the provider does not listen")


def control(*calls: m.ToProvider) -> list[Any]:
    """Calls over one connection, and what they were answered with."""
    values: list[Any] = []
    decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(CONTROL)
        for call in calls:
            sock.sendall(encode(call))
            answers: list[m.FromProvider] = []
            while not answers:
                answers = list(decoder.feed(sock.recv(65536)))
            assert isinstance(answers[0], m.Done), answers
            values.append(answers[0].value)
    return values


def attach_command(*arguments: str) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([arguments[0], "one", "--runtime", "/run/one", *arguments[1:]])
    assert status == 0, err.getvalue()
    answer: dict[str, Any] = json.loads(out.getvalue() or "{}")
    return answer


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def step(text: str) -> None:
    print(f"{time.monotonic():8.2f} {text}", flush=True)


def snapshot() -> tuple[UUID, str]:
    """A copy of the frozen file system, and the digest of what it has to show."""
    copy, entire = str(uuid4()), str(uuid4())
    run("fsfreeze", "-f", MOUNT)
    try:
        control(m.Hold(1), m.Commit(2, copy, entire, 1, persistent=True), m.Release(3), m.Finish(4, copy))
        with open(ORIGIN, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    finally:
        run("fsfreeze", "-u", MOUNT)
    return UUID(copy), digest


def digest_of(copy: UUID) -> str:
    reader = CopyReader(STORAGE, ORIGIN, copy)
    try:
        return hashlib.sha256(reader.read(0, reader.size)).hexdigest()
    finally:
        reader.close()


def check_growth(via: str, provider: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    size = os.path.getsize(ORIGIN)
    device = attach_command("attach", "--nbd", NBD, "--via", via)["device"]
    if size == SIZE:
        run("mkfs.ext4", "-q", device)
    run("mount", device, MOUNT)
    free = os.statvfs(MOUNT).f_blocks
    copy, digest = snapshot()
    os.truncate(ORIGIN, size + SIZE)
    assert control(m.Resize(1))[0]["size"] == size + SIZE
    assert loop.device_size(device) == size
    assert attach_command("resize") == {"device": device, "size": size + SIZE}
    assert loop.device_size(device) == size + SIZE
    run("resize2fs", device)
    assert os.statvfs(MOUNT).f_blocks > free * 3 // 2 or size > SIZE
    content = os.urandom(SIZE - 4 * MIB)
    with open(f"{MOUNT}/{via}", "wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    step(f"{device} grew to {size + SIZE} bytes and took a file of {len(content)}")
    assert digest_of(copy) == digest
    provider.kill()
    provider.wait()
    provider = start_provider()
    attach_command("reconnect")
    run("umount", MOUNT)
    assert loop.device_size(device) == size + SIZE
    run("fsck.ext4", "-fn", device)
    attach_command("detach")
    run("mount", "-o", "loop,ro,noload", ORIGIN, MOUNT)
    with open(f"{MOUNT}/{via}", "rb") as file:
        assert file.read() == content
    run("umount", MOUNT)
    assert digest_of(copy) == digest
    return provider


def everything() -> None:
    os.mkdir(MOUNT)
    with open(ORIGIN, "wb") as file:
        file.truncate(SIZE)
    provider = start_provider()
    for via in sys.argv[1:]:
        provider = check_growth(via, provider)
        step(f"grown {via}")
    provider.kill()
    provider.wait()


if __name__ == "__main__":
    everything()
    step("all is well")
