"""Thousands of damaged frames at every socket of a running chain: nobody else notices, nothing is left open."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.vss import provider_protocol, requester_protocol, wire, writer_protocol

FRAMES = 1300  # to each of three sockets
GROWTH = 64 << 20
VALUES: list[Any] = [0, 1, -1, 2**31, 2**64 - 1, "", "x", "/proc/none", "\0", "a" * 5000, b"\xff", None, True, 1.5]
VALUES += [[], ["x"], {}, {"x": [{}]}, [[[[]]]], "0a4e7c55-9d0b-4a53-8f0e-7a3c2b1d9e21"]


def kinds(union: Any) -> list[type[wire.Message]]:
    """Every kind of message but those with which a provider would rightly end, change its settings, or end the sender:
    who asks to take over and then does not is killed, since it holds the volume's descriptors.
    """
    obeyed = (provider_protocol.Stop, provider_protocol.Configure, provider_protocol.TakeOver)
    return [kind for kind in typing.get_args(union) if kind not in obeyed]


def body(kind: type[wire.Message], chance: random.Random) -> bytes:
    """A message of this kind with wild fields, some missing; seldom sound."""
    fields: dict[str, Any] = {"kind": kind.__struct_config__.tag, "seq": chance.randrange(99)}
    for name in kind.__struct_encode_fields__:
        if chance.random() < 0.9:
            fields[name] = chance.choice(VALUES) if name != "seq" or chance.random() < 0.1 else 7
    return msgspec.msgpack.encode(fields)


def frame(union: list[type[wire.Message]], chance: random.Random) -> bytes:
    data = body(chance.choice(union), chance)
    length = len(data)
    match chance.randrange(5):
        case 0:
            place = chance.randrange(len(data))
            data = data[:place] + chance.randbytes(chance.randint(1, 8)) + data[place + 1 :]
            length = len(data)
        case 1:
            data = data[: chance.randrange(len(data))]
        case 2:
            length = chance.choice([0, 1, length + 1, wire.MAX_FRAME, wire.MAX_FRAME + 1, 2**32 - 1])
        case _:
            pass
    return length.to_bytes(wire.LENGTH_BYTES, "big") + data


def throw(path: str, data: bytes) -> bytes:
    """One connection that sends this and reads until the other side has closed."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(path)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(65536):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass  # refused before it was read to the end
    return answer


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.vss(31)
def test_damaged_frames_harm_nobody_else(chain: Any, wait_until: Any) -> None:
    image = f"{chain.directory}/v.img"
    Path(image).write_bytes(bytes(8 << 20))
    chain.cli("volume", "add", "v", image)
    before_volume = chain.cli("volume", "attach", "v")
    hello = wire.encode(requester_protocol.ServiceHello(1))
    calls, replies, controls = (
        kinds(union)
        for union in (
            requester_protocol.ToCoordinator,
            writer_protocol.FromWriter,
            provider_protocol.ToProvider,
        )
    )
    targets = [
        (chain.paths.requester_socket, calls, hello),
        (chain.paths.writer_socket, replies, b""),
        (chain.paths.control_socket("v"), controls, b""),
    ]
    pids = [chain.daemon.pid, before_volume["pid"]]
    for path, union, start in targets:
        throw(path, start + frame(union, random.Random(0)))
    open_before, size_before = [descriptors(pid) for pid in pids], [resident(pid) for pid in pids]
    answered = [0, 0, 0]
    for seed in range(FRAMES):
        chance = random.Random(seed)
        for number, (path, union, start) in enumerate(targets):
            several = b"".join(frame(union, chance) for _ in range(chance.choice([1, 1, 1, 5])))
            answered[number] += bool(throw(path, (start if chance.random() < 0.8 else b"") + several))
    assert all(count > FRAMES // 10 for count in answered), "the frames must get past the door"
    for pid, count, size in zip(pids, open_before, size_before, strict=True):
        wait_until("the descriptors to be closed", lambda pid=pid, count=count: descriptors(pid) <= count)
        assert resident(pid) - size < GROWTH
    (volume,) = chain.cli("volume", "list")
    assert volume == before_volume, "neither the provider nor its device has changed"
    copies = len(chain.describe("v").copies)
    made = chain.cli("create", "v")
    assert len(made["snapshots"]) == 1 and len(chain.describe("v").copies) == copies + 1
    device = volume["device"]
    subprocess.run(["dd", "if=/dev/urandom", f"of={device}", "bs=64K", "count=4", "oflag=direct"], check=True)
    assert "Traceback" not in chain.log()
    chain.raw("volume", "remove", "v", "--force")
