"""A running provider gives its volume to another process; clients wait and keep their connections."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.attach import client as nbd_client
from shadowset.vss import provider_protocol as m

BLOCK = 4096
PATIENCE_S = 60

MUTE = """
import time
from shadowset.nbd_provider import handover, service
handover.begin = lambda sock: time.sleep(1000)
"""
BROKEN = """
from shadowset.nbd_provider import volume
def fail(*_, **__):
    raise OSError(5, "ordered by the test")
volume.ShadowStore = fail
"""
LATE = """
import sys, time
from shadowset.nbd_provider import handover
begin = handover.begin
def wait(sock):
    time.sleep(3)
    begin(sock)
handover.begin = wait
"""
RUN = "\nimport sys\nfrom shadowset.nbd_provider.main import main\nsys.exit(main(sys.argv[1:]))\n"


class Successor:
    """A process that takes over, with ``code`` run in it first."""

    def __init__(self, provider: Any, code: str = "") -> None:
        self.provider = provider
        command = [sys.executable, "-c", code + RUN, "vol", "--origin", provider.origin, "--storage", provider.storage]
        command += ["--nbd", provider.nbd, "--control", provider.control_socket, "--take-over"]
        command += ["--losses", f"{provider.directory}/losses"]
        self.errors = f"{provider.directory}/successor.log"
        with open(self.errors, "ab") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def serves(self) -> None:
        """Wait until it does, and its predecessor has ended."""
        assert self.provider.process.wait(PATIENCE_S) == 0
        old, self.provider.process = self.provider.process, self.process
        assert old.pid != self.process.pid and self.process.poll() is None, self.said()

    def said(self) -> str:
        return Path(self.errors).read_text()


@pytest.fixture
def successor(provider: Any) -> Iterator[Any]:
    made: list[Successor] = []

    def start(code: str = "") -> Successor:
        made.append(Successor(provider, code))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait(10)
        assert "Traceback" not in each.said()


class Load(threading.Thread):
    """Writes and reads blocks of its own over one connection; remembers what was acknowledged, and the longest wait."""

    def __init__(self, nbd_module: Any, provider: Any, first: int, count: int) -> None:
        super().__init__()
        self._client = nbd_module.NBD()
        self._client.connect_uri(provider.uri)
        self._first, self._count = first, count
        self.content: dict[int, bytes] = {}
        self.longest = 0.0
        self.done = 0
        self.stop = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop:
                block = self._first + self.done % self._count
                data = os.urandom(BLOCK)
                begun = time.monotonic()
                self._client.pwrite(data, block * BLOCK)
                assert self._client.pread(BLOCK, block * BLOCK) == data
                self.longest = max(self.longest, time.monotonic() - begun)
                self.content[block] = data
                self.done += 1
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self.stop = True
        self.join(PATIENCE_S)
        assert self.error is None and not self.is_alive()


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def goes_on(load: Load) -> None:
    count = load.done
    wait_for(lambda: load.done > count + 5, "the load to go on")


def test_clients_keep_their_connections_and_copies_stay(
    provider: Any, successor: Any, nbd_module: Any, random_image: bytes
) -> None:
    control = provider.control()
    copies = {control.snapshot(persistent=True): random_image}
    loads = [Load(nbd_module, provider, number * 100, 100) for number in range(3)]
    for load in loads:
        load.start()
    stalls = []
    for _ in range(4):
        for load in loads:
            goes_on(load)
        successor().serves()
        told = control.value(m.Describe)  # the same connection, another process
        assert told["pid"] == provider.process.pid and told["stall_ms"] > 0
        stalls.append(told["stall_ms"])
        copy = control.snapshot(persistent=True)
        copies[copy] = provider.content(copy)
    for load in loads:
        load.end()
    print("stalls", stalls, "longest waits", [round(load.longest * 1000, 1) for load in loads])
    origin = Path(provider.origin).read_bytes()
    for load in loads:
        for block, data in load.content.items():
            assert origin[block * BLOCK : (block + 1) * BLOCK] == data
    for copy, content in copies.items():
        assert provider.content(copy) == content
    assert provider.stop() == 0
    assert not os.path.exists(provider.nbd) and not os.path.exists(provider.control_socket)
    provider.start()
    assert {each["copy_id"] for each in provider.control().value(m.Describe)["copies"]} == set(copies)


def exchange(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += sock.recv(count - len(data))
    return data


def test_half_a_request_and_half_a_negotiation_go_along(provider: Any, successor: Any) -> None:
    writing, _ = nbd_client.connect(provider.nbd, "vol")
    content = os.urandom(300_000)
    request = nbd_client.pack_request(p.CMD_WRITE, 0, 7, 512, len(content)) + content
    writing.sendall(request[:100_000])
    greeting = socket.socket(socket.AF_UNIX)
    greeting.connect(provider.nbd)
    exchange(greeting, p.GREETING.size)
    option = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 3) + b"vol"
    opening = p.CLIENT_FLAGS.pack(p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES) + option
    greeting.sendall(opening[:9])
    provider.control().value(m.Describe)  # an answer means that what came before was taken
    successor().serves()
    writing.sendall(request[100_000:])
    assert nbd_client.unpack_reply(memoryview(exchange(writing, 16)), 0) == (0, 7)
    greeting.sendall(opening[9:])
    assert struct.unpack(">QH", exchange(greeting, 10))[0] == provider.size
    writing.close()
    greeting.close()
    assert Path(provider.origin).read_bytes()[512 : 512 + len(content)] == content


def test_answers_that_a_client_has_not_taken_go_along(provider: Any, successor: Any, random_image: bytes) -> None:
    slow, _ = nbd_client.connect(provider.nbd, "vol")
    length = 4 << 20
    for cookie in range(3):
        slow.sendall(nbd_client.pack_request(p.CMD_READ, 0, cookie, cookie * length, length))
    other, _ = nbd_client.connect(provider.nbd, "vol")
    other.close()
    successor().serves()
    for _ in range(3):
        error, cookie = nbd_client.unpack_reply(memoryview(exchange(slow, 16)), 0)
        assert error == 0
        assert exchange(slow, length) == random_image[cookie * length : (cookie + 1) * length]
    slow.close()


def test_chosen_maps_stay_chosen(provider: Any, successor: Any, nbd_module: Any) -> None:
    copy = provider.control().snapshot(persistent=True)
    name = f"qemu:dirty-bitmap:{copy}"
    client = nbd_module.NBD()
    client.add_meta_context(name)
    client.connect_uri(provider.uri)
    client.pwrite(b"x" * 16384, 65536)
    successor().serves()
    found: list[int] = []
    client.block_status(provider.size, 0, lambda _name, _offset, entries, _error: found.extend(entries))
    assert found[:4] == [65536, 0, 16384, 1]
    client.shutdown()


@pytest.mark.parametrize(("code", "why"), [(BROKEN, "ordered by the test"), ("import sys; sys.exit(3)", "")])
def test_a_successor_that_fails_leaves_the_old_one_serving(
    provider: Any, successor: Any, nbd_module: Any, random_image: bytes, code: str, why: str
) -> None:
    control = provider.control()
    copy = control.snapshot()  # one that a clean end would keep, but a recovery would not
    load = Load(nbd_module, provider, 0, 50)
    load.start()
    failed = successor(code)
    assert failed.process.wait(PATIENCE_S) != 0 and why in failed.said()
    goes_on(load)
    told = control.value(m.Describe)
    assert told["pid"] == provider.process.pid and [each["copy_id"] for each in told["copies"]] == [copy]
    assert provider.content(copy) == random_image
    successor().serves()
    goes_on(load)
    load.end()
    assert provider.content(copy) == random_image


def test_a_successor_that_is_killed_leaves_the_old_one_serving(provider: Any, successor: Any, nbd_module: Any) -> None:
    load = Load(nbd_module, provider, 0, 50)
    load.start()
    killed = successor(MUTE)
    stalled(load)
    killed.process.kill()
    goes_on(load)
    load.end()
    assert provider.stop() == 0


def test_a_successor_that_says_nothing_is_ended(patched_provider: Any, nbd_module: Any) -> None:
    provider = patched_provider("""
        import sys
        from shadowset.nbd_provider import handover
        from shadowset.nbd_provider.main import main
        handover.READY_SECONDS = 1.5
        sys.exit(main(sys.argv[1:-1]))
    """)
    load = Load(nbd_module, provider, 0, 50)
    load.start()
    silent = Successor(provider, MUTE)
    assert silent.process.wait(PATIENCE_S) == -signal.SIGKILL
    goes_on(load)
    load.end()
    assert provider.process.poll() is None and "is not ready" in provider.log()


def stalled(load: Load) -> None:
    """Wait until requests wait."""
    count, since, deadline = load.done, time.monotonic(), time.monotonic() + PATIENCE_S
    while time.monotonic() - since < 1:
        assert time.monotonic() < deadline, "nobody takes over"
        if load.done != count:
            count, since = load.done, time.monotonic()
        time.sleep(0.02)


def test_when_the_old_one_dies_on_the_way_the_new_one_serves(provider: Any, successor: Any, nbd_module: Any) -> None:
    load = Load(nbd_module, provider, 0, 50)
    load.start()
    new = successor(LATE)
    stalled(load)
    provider.process.kill()
    provider.process.wait(10)
    provider.process = new.process
    goes_on(load)
    load.end()
    assert provider.control().value(m.Describe)["pid"] == new.process.pid


def test_a_held_volume_is_not_handed_over(provider: Any, successor: Any) -> None:
    control = provider.control()
    control.value(m.Hold)
    refused = successor()
    assert refused.process.wait(PATIENCE_S) == 1
    assert "writes are held" in refused.said() and refused.said().count("\n") <= 3
    control.value(m.Release)
    successor().serves()


@pytest.mark.usefixtures("random_image")
def test_events_that_nobody_has_heard_go_along(provider: Any, successor: Any) -> None:
    control = provider.control()
    control.value(m.Configure, max_size=64 << 20, warn_percent=1)
    control.snapshot()
    writing, _ = nbd_client.connect(provider.nbd, "vol")
    for cookie in range(12):
        data = os.urandom(1 << 20)
        writing.sendall(nbd_client.pack_request(p.CMD_WRITE, 0, cookie, cookie << 20, len(data)) + data)
        assert nbd_client.unpack_reply(memoryview(exchange(writing, 16)), 0)[0] == 0
    writing.close()
    events = control.value(m.ListEvents)["events"]
    assert [each["event"] for each in events].count("storage-warning") == 1
    successor().serves()
    assert [each["event"] for each in control.value(m.ListEvents)["events"]].count("storage-warning") == 1
    control.value(m.ListEvents, after=100)
    successor().serves()
    assert control.value(m.ListEvents, tell=True)["events"] == []
    successor().serves()
    other = provider.control()
    other.value(m.Configure, max_size=8 << 20)  # less than it takes already
    other.snapshot()
    writing, _ = nbd_client.connect(provider.nbd, "vol")
    for cookie in range(8):
        data = os.urandom(1 << 20)
        writing.sendall(nbd_client.pack_request(p.CMD_WRITE, 0, cookie, cookie << 20, len(data)) + data)
        assert nbd_client.unpack_reply(memoryview(exchange(writing, 16)), 0)[0] == 0
    writing.close()
    assert isinstance(control.hear(), m.Happened), "who wanted to hear of events hears of those of the next process"


def test_of_two_who_want_it_one_gets_it(provider: Any, successor: Any) -> None:
    control = provider.control()
    both = [successor(), successor()]
    wait_for(lambda: provider.process.poll() is not None, "one to take over")
    pid = control.value(m.Describe)["pid"]
    one = next(each for each in both if each.process.pid == pid)
    provider.process = one.process
    successor().serves()
    other = next(each for each in both if each is not one)
    assert one.process.wait(PATIENCE_S) == 0 or other.process.poll() is not None


def test_without_a_predecessor_nothing_is_taken_over(provider: Any, successor: Any) -> None:
    provider.stop()
    failed = successor()
    assert failed.process.wait(PATIENCE_S) == 1 and "hands nothing over" in failed.said()
