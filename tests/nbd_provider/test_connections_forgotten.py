"""A client that has left leaves nothing behind, whatever it did last; nor does a copy in the provider's memory."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p

FEW, MANY = 5, 50
MIB = 1 << 20

COUNTS = """
import gc, os, signal, sys
from shadowset.nbd_provider.main import main
flag = sys.argv.pop()
gc.disable()  # what only Python's search for rings would find stays

def count(*_):
    names = [type(each).__name__ for each in gc.get_objects()]
    with open(flag + ".new", "w") as file:
        file.write(" ".join(str(names.count(name)) for name in ("Connection", "Transmission", "ControlClient")))
    os.rename(flag + ".new", flag)

signal.signal(signal.SIGUSR1, count)
sys.exit(main(sys.argv[1:]))
"""


def connect(provider: Any, nbd: Any) -> Any:
    client = nbd.NBD()
    client.add_meta_context("base:allocation")
    client.connect_uri(provider.uri)
    return client


def leaves_politely(provider: Any, nbd: Any) -> None:
    client = connect(provider, nbd)
    client.pwrite(os.urandom(MIB), 0)
    client.flush()
    client.block_status(MIB, 0, lambda *_: 0)
    client.shutdown()


def is_refused(provider: Any, nbd: Any) -> None:
    client = connect(provider, nbd)
    client.set_strict_mode(0)
    with pytest.raises(nbd.Error):
        client.pread(4096, provider.size)
    client.shutdown()


def goes_amid_reads(provider: Any, nbd: Any) -> None:
    """Many large ones from the disk, whose answers nobody takes."""
    with open(provider.origin, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    client = connect(provider, nbd)
    for number in range(16):
        client.aio_pread(nbd.Buffer(MIB), number * MIB % provider.size)


def goes_amid_a_write(provider: Any, _: Any) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(provider.nbd)
        sock.recv(64)
        sock.sendall(p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 3) + b"vol")
        assert sock.recv(64)
        sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, MIB) + bytes(5000))


def goes_amid_the_negotiation(provider: Any, _: Any) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(provider.nbd)
        sock.recv(64)
        sock.sendall(p.CLIENT_FLAGS.pack(3) + b"IHAVE")


def talks_nonsense(provider: Any, _: Any) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(provider.nbd)
        sock.sendall(p.CLIENT_FLAGS.pack(3) + b"nonsense" * 8)


ENDS = [leaves_politely, is_refused, goes_amid_reads, goes_amid_a_write, goes_amid_the_negotiation, talks_nonsense]


def counts(provider: Any) -> list[int]:
    """How many connections, transmissions and control clients there are in the provider."""
    provider.flag.unlink(missing_ok=True)
    provider.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while not provider.flag.exists():
        assert time.monotonic() < deadline, "the provider does not count"
        time.sleep(0.02)
    return [int(word) for word in provider.flag.read_text().split()]


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_of_clients(
    patched_provider: Callable[[str], Any], nbd_module: Any, end: Callable[[Any, Any], None]
) -> None:
    provider = patched_provider(COUNTS)
    control = provider.control()
    witness = connect(provider, nbd_module)
    for _ in range(FEW):
        control.snapshot(persistent=True)
        provider.control().close()
        end(provider, nbd_module)
    deadline = time.monotonic() + 60
    while (left := counts(provider)) != [1, 1, 1]:
        assert time.monotonic() < deadline, f"connections, transmissions, control clients: {left}"
        time.sleep(0.1)
    witness.shutdown()


def anonymous(pid: int) -> int:
    """Bytes of its own that a process has in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


def test_memory_does_not_grow_with_copies(patched_provider: Callable[[str], Any], nbd_module: Any) -> None:
    """Each has a client of its own, as when a volume is detached and attached between copies."""
    provider = patched_provider(COUNTS)
    control, memory, descriptors = provider.control(), [], []
    for number in range(1, MANY + 1):
        control.snapshot(persistent=True)
        client = connect(provider, nbd_module)
        for offset in range(0, 4 * MIB, MIB):
            client.pwrite(bytes([number]) * MIB, offset)
        client.shutdown()
        memory.append(anonymous(provider.process.pid))
        descriptors.append(len(os.listdir(f"/proc/{provider.process.pid}/fd")))
    grown = max(memory[FEW:]) - max(memory[:FEW])
    assert grown < (MANY - FEW) * MIB // 4, f"{grown} bytes for {MANY - FEW} copies"
    assert max(descriptors[FEW:]) <= max(descriptors[:FEW]) + 4
