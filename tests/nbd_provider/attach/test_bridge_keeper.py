"""A bridge that is killed or replaced goes on with the same mount and loop device; so does its keeper."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider.attach import bridge_state, loop

pytestmark = pytest.mark.host

MIB = 1 << 20
SIZE = 16 * MIB
PATIENCE_S = 60


def wait_for(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return value


def need_resend(place: Any) -> None:
    facts = bridge_state.load_serving(place.runtime)
    assert facts is not None
    if not facts.resend:
        pytest.skip("needs a kernel that gives back requests (6.9)")


class Load(threading.Thread):
    """Writes straight to the device, some with fsync, reads back, and knows what must be there."""

    def __init__(self, device: str, seed: int, lanes: int = 1) -> None:
        super().__init__()
        self._device = device
        self._source = random.Random(seed)
        self._start, self._end = seed * SIZE // lanes, (seed + 1) * SIZE // lanes
        self.expected = bytearray(self._end - self._start)
        self.done = 0
        self.longest = 0.0
        self.stop = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            fd = os.open(self._device, os.O_RDWR)
            try:
                while not self.stop.is_set():
                    self._step(fd)
            finally:
                os.close(fd)
        except BaseException as error:
            self.error = error

    def _step(self, fd: int) -> None:
        length = self._source.choice([4096, 65536, MIB])
        at = self._source.randrange(0, len(self.expected) - length) // 4096 * 4096
        content = self._source.randbytes(length)
        begun = time.monotonic()
        os.pwrite(fd, content, self._start + at)
        os.fsync(fd)
        os.posix_fadvise(fd, self._start + at, length, os.POSIX_FADV_DONTNEED)
        self.expected[at : at + length] = content
        assert os.pread(fd, length, self._start + at) == content
        self.longest = max(self.longest, time.monotonic() - begun)
        self.done += 1

    def goes_on(self) -> None:
        count = self.done
        wait_for(lambda: self.error or self.done > count + 2, "the load to go on")
        assert self.error is None, self.error

    def end(self, image: str) -> None:
        self.stop.set()
        self.join(PATIENCE_S)
        assert self.error is None and not self.is_alive()
        assert Path(image).read_bytes()[self._start : self._end] == bytes(self.expected)


def test_a_bridge_that_is_killed_goes_on(place: Any) -> None:
    server = place.server(SIZE, "qemu-nbd")
    device = place.attach(server.socket)["device"]
    need_resend(place)
    loads = [Load(device, number, 2) for number in range(2)]
    for load in loads:
        load.start()
    source, kills, pauses = random.Random(5), 6, []
    for number in range(kills):
        time.sleep(source.uniform(0.0, 0.15))
        before = bridge_state.load_status(place.runtime)
        begun = time.monotonic()
        os.kill(before.bridge, signal.SIGKILL)
        wait_for(lambda done=number: bridge_state.load_status(place.runtime).restarts == done + 1, "the restart")
        for load in loads:
            load.goes_on()
        pauses.append(round(time.monotonic() - begun, 2))
    print("seconds until all goes on:", pauses, "longest step:", [round(load.longest, 2) for load in loads])
    assert loop.devices_on(f"{place.runtime}/bridge/disk") == [device]
    for load in loads:
        load.end(server.image)
    status = bridge_state.load_status(place.runtime)
    assert (status.restarts, status.cause) == (kills, "was ended by SIGKILL")
    assert place.detach().returncode == 0
    assert place.leftovers() == [] and os.listdir(place.runtime) == []


def test_requests_that_a_stopped_bridge_has_taken_are_given_back(place: Any) -> None:
    """The server is stopped, so that everything is under way when the bridge is killed; then it goes on."""
    server = place.server(SIZE, "qemu-nbd")
    device = place.attach(server.socket)["device"]
    need_resend(place)
    loads = [Load(device, number, 4) for number in range(4)]
    for load in loads:
        load.start()
        load.goes_on()
    server.signal(signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(bridge_state.load_status(place.runtime).bridge, signal.SIGKILL)
    wait_for(lambda: bridge_state.load_status(place.runtime).restarts == 1, "the restart")
    counts = [load.done for load in loads]
    server.signal(signal.SIGCONT)
    for load in loads:
        load.goes_on()
        load.end(server.image)
    assert [load.done for load in loads] > counts


def test_without_a_server_a_killed_bridge_waits(place: Any) -> None:
    server = place.server(SIZE, "qemu-nbd")
    device = place.attach(server.socket)["device"]
    need_resend(place)
    load = Load(device, 0)
    load.start()
    load.goes_on()
    server.kill()
    os.kill(bridge_state.load_status(place.runtime).bridge, signal.SIGKILL)
    wait_for(lambda: bridge_state.load_status(place.runtime).restarts == 1, "the restart")
    server.start()
    load.goes_on()
    load.end(server.image)


def test_a_keeper_that_is_killed_is_started_again_and_keeps(place: Any) -> None:
    server = place.server(SIZE, "qemu-nbd")
    device = place.attach(server.socket)["device"]
    need_resend(place)
    load = Load(device, 0)
    load.start()
    for _ in range(2):
        before = bridge_state.load_status(place.runtime)
        os.kill(before.keeper, signal.SIGKILL)
        now = wait_for(
            lambda old=before: (
                s if (s := bridge_state.load_status(place.runtime)).keeper not in (0, old.keeper) else None
            ),
            "another keeper",
        )
        assert now.bridge == before.bridge and now.runs
        os.kill(now.bridge, signal.SIGKILL)
        wait_for(lambda old=now: bridge_state.load_status(place.runtime).bridge != old.bridge, "another bridge")
        load.goes_on()
    load.end(server.image)
    assert place.attach(server.socket)["device"] == device
    assert place.detach().returncode == 0
    assert place.leftovers() == []


def test_a_bridge_is_replaced_live(place: Any) -> None:
    server = place.server(SIZE, "qemu-nbd")
    device = place.attach(server.socket)["device"]
    need_resend(place)
    load = Load(device, 0)
    load.start()
    for _ in range(2):
        load.goes_on()
        before = bridge_state.load_status(place.runtime)
        done = place.run("handover", "vol", "--runtime", place.runtime)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        now = bridge_state.load_status(place.runtime)
        assert now.bridge == answer["pid"] != before.bridge and now.keeper == before.keeper and now.restarts == 0
        print("nothing was answered for", answer["stall_ms"], "ms")
    load.goes_on()
    load.end(server.image)


def test_a_resized_disk_keeps_its_size_when_its_bridge_is_killed(place: Any) -> None:
    server = place.server(SIZE, "qemu-nbd")
    device = place.attach(server.socket)["device"]
    need_resend(place)
    os.truncate(server.image, 2 * SIZE)
    server.kill()
    server.start()
    assert place.resize().returncode == 0
    before = bridge_state.load_status(place.runtime)
    os.kill(before.bridge, signal.SIGKILL)
    with open(device, "r+b", buffering=0) as file:
        file.seek(2 * SIZE - 4096)
        file.write(b"z" * 4096)
        os.fsync(file.fileno())
    assert Path(server.image).read_bytes()[-4096:] == b"z" * 4096
