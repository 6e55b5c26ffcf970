"""Writers in a memory cgroup that is much smaller than what they write; bridge and provider are born in the same one.

A server that stayed there would wait, for memory to write with, for pages of its own device: it got stuck in seconds.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider.attach import bridge_state, client
from shadowset.nbd_provider.process import groups_of
from shadowset.vss.cgroups import beside, memory_groups

pytestmark = pytest.mark.host

MIB = 1 << 20
LIMIT = 48 * MIB
WRITTEN = 192 * MIB
PATIENCE_S = 120
ATTEMPTS = 10

WRITE = """
import hashlib, os, sys
digest, source = hashlib.sha256(), os.urandom(1 << 20)
with open(sys.argv[1], "wb") as file:
    for number in range(int(sys.argv[2])):
        piece = number.to_bytes(8, "big") + source[8:]
        file.write(piece)
        digest.update(piece)
    os.fsync(file.fileno())
print(digest.hexdigest())
"""


def test_the_cgroups_that_account_memory() -> None:
    text = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/system.slice/x.service\n"
    assert memory_groups(text, unified=False) == ["/sys/fs/cgroup/memory/a/b"]
    assert memory_groups("0::/system.slice/x.service\n", unified=True) == ["/sys/fs/cgroup/system.slice/x.service"]
    assert beside("/sys/fs/cgroup/memory/a/b", "mine") == "/sys/fs/cgroup/memory/a/mine"
    assert beside(memory_groups("0::/\n", unified=True)[0], "mine") == "/sys/fs/cgroup/mine"


class Small:
    """A cgroup with little memory."""

    def __init__(self, name: str) -> None:
        self.path = beside(groups_of(os.getpid())[0], name)
        os.mkdir(self.path)
        for file in ("memory.limit_in_bytes", "memory.max"):
            if os.path.exists(f"{self.path}/{file}"):
                Path(f"{self.path}/{file}").write_text(str(LIMIT))
                return
        os.rmdir(self.path)
        raise OSError(0, "the controller is not enabled here")

    def command(self, *command: str) -> list[str]:
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.path, *command]

    def close(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                os.rmdir(self.path)
            except OSError:
                assert time.monotonic() < deadline, f"{self.path} is still in use"
                time.sleep(0.05)
            else:
                return


@pytest.fixture
def small(place: Any) -> Iterator[Small]:
    name = os.path.basename(place.directory)
    try:
        made = Small(name)
    except (OSError, IndexError) as error:
        pytest.skip(f"no memory cgroup can be limited here: {error}")
    yield made
    place.close()
    made.close()


def test_writers_without_memory_do_not_stop_their_own_device(place: Any, small: Small, run: Any) -> None:
    directory, name = place.directory, os.path.basename(place.directory)
    work = f"/var/tmp/{name}"
    os.mkdir(work)
    try:
        with open(f"{work}/origin", "wb") as file:
            file.truncate(WRITTEN * 3 // 2)
        command = [sys.executable, "-m", "shadowset.nbd_provider.main", "vol", "--origin", f"{work}/origin"]
        command += [
            "--storage",
            f"{work}/storage",
            "--nbd",
            f"{directory}/nbd.sock",
            "--control",
            f"{directory}/control",
        ]
        command += ["--group", f"shadowset-provider-{name}", "--losses", f"{work}/losses"]
        with open(f"{work}/log", "wb") as log:
            provider = subprocess.Popen(small.command(*command), stderr=log)
        try:
            write_all(place, small, run, provider)
        finally:
            place.unmount_all()
            place.detach("--force")
            groups = [group for group in groups_of(provider.pid) if os.path.basename(group) != name]
            provider.kill()
            provider.wait(20)
            for group in groups:
                if os.path.basename(group).startswith("shadowset-provider-"):
                    os.rmdir(group)
    finally:
        subprocess.run(["rm", "-r", work], check=True, timeout=60)


def write_all(place: Any, small: Small, run: Any, provider: subprocess.Popen[bytes]) -> None:
    socket = f"{place.directory}/nbd.sock"
    wait_for_server(socket, provider)
    command = [sys.executable, "-m", "shadowset.nbd_provider.attach.main", "attach", "vol", "--nbd", socket]
    command += ["--via", "fuse", "--runtime", place.runtime, "--links", place.links]
    run(small.command(*command))
    bridge = bridge_state.load_status(place.runtime).bridge
    for pid in (bridge, provider.pid):
        assert small.path not in groups_of(pid), "it stayed in the cgroup of the writers"
    device = os.path.realpath(f"{place.links}/vol")
    run(["mkfs.ext4", "-q", "-E", "nodiscard", device])
    place.mount(device)
    begun = time.monotonic()
    path = f"{place.mount_point}/big"
    digest = write(small, path)
    print(f"{WRITTEN // MIB} MiB written within {LIMIT // MIB} MiB of memory in {time.monotonic() - begun:.1f} s")
    place.unmount()
    place.mount(device)
    with open(path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest


def write(small: Small, path: str) -> str:
    """The digest of what was written.

    A group of version 1 kills its writer now and then, when all of its memory is under writeback and ext4 needs some at
    a place where it may not wait. So it is tried again; a device that stopped would keep even a killed one from ending.
    """
    for _ in range(ATTEMPTS):
        command = small.command(sys.executable, "-c", WRITE, path, str(WRITTEN // MIB))
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if done.returncode != -signal.SIGKILL:
            break
    assert not done.returncode, done
    return done.stdout.strip()


def wait_for_server(socket: str, provider: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.connect(socket, "vol", 5)[0].close()
        except client.NbdError:
            assert provider.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
