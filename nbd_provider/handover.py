"""A volume goes from one provider process to another, with its descriptors, while its clients wait for milliseconds.

The old process closes the storage as a kill would leave it, which its formats allow at any instant, but keeps all
descriptors until the new one has opened it. What then happens to whom:

- the new one says that it is ready: it is told to go, and serves; the old one ends;
- the new one refuses, ends, or says nothing for ``READY_SECONDS``: it is told no and killed, and the old one opens the
  storage again and goes on with the same clients;
- the old one dies while it waits: the connection between both ends, which means go.
"""

from __future__ import annotations

import logging
import mmap
import os
import select
import signal
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from shadowset.nbd_provider.handover_state import VolumeState
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import Failed, FromProvider, TakeOver
from shadowset.vss.wire import FrameDecoder, encode

log = logging.getLogger(__name__)

READY_SECONDS: Final = 10.0
DRAIN_PATIENCE: Final = 15.0
END_SECONDS: Final = 5.0
_PER_MESSAGE: Final = 200
_COUNT: Final = struct.Struct("=I")
_READY, _GO, _NO = b"r", b"g", b"n"


@dataclass(frozen=True)
class Kept:
    """Descriptors that keep others from a volume: the origin's, and the lock of its storage; its first free slot."""

    origin: int
    lock: int
    next_slot: int


def give(sock: socket.socket, state: VolumeState, descriptors: Sequence[int]) -> bool:
    """Let the process at the other end of ``sock`` go on; False when it does not, and then it never will."""
    try:
        sock.settimeout(READY_SECONDS)
        _send(sock, state, descriptors)
        if sock.recv(1) == _READY:
            sock.sendall(_GO)
            return True
        log.error("the process that was to take over has ended")
    except OSError as error:
        log.error("the process that was to take over is not ready: %s", error)
    _refuse(sock)
    return False


def _refuse(sock: socket.socket) -> None:
    """It may just be slow, so that it must not find the connection ended, which would mean go."""
    try:
        sock.sendall(_NO)
    except OSError:
        pass
    pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    try:
        watch = os.pidfd_open(pid)
    except OSError:  # it has ended, or is in another PID name space
        return
    try:
        signal.pidfd_send_signal(watch, signal.SIGKILL)
        ended = select.poll()
        ended.register(watch, select.POLLIN)
        ended.poll(END_SECONDS * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(watch)


def _send(sock: socket.socket, state: VolumeState, descriptors: Sequence[int]) -> None:
    content = os.memfd_create("shadowset-handover")
    try:
        with open(content, "wb", closefd=False) as file:
            file.write(msgspec.msgpack.encode(state))
        every = [content, *descriptors]
        for start in range(0, len(every), _PER_MESSAGE):
            socket.send_fds(sock, [_COUNT.pack(len(every))], every[start : start + _PER_MESSAGE])
    finally:
        os.close(content)


def take(path: str) -> tuple[socket.socket, VolumeState, list[int]]:
    """From the provider whose control socket this is: the connection to it, and what it had.

    Errors: VssError when it refuses, or there is none.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(DRAIN_PATIENCE)
        sock.connect(path)
        sock.sendall(encode(TakeOver(1)))
        return sock, *_receive(sock)
    except OSError as error:
        sock.close()
        message = f"the provider at {path} hands nothing over: {error}; start one that does not take over"
        raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message) from None
    except BaseException:
        sock.close()
        raise


def _receive(sock: socket.socket) -> tuple[VolumeState, list[int]]:
    data, descriptors, _, _ = socket.recv_fds(sock, 65536, _PER_MESSAGE)
    if not descriptors:
        raise _refusal(data)
    (count,) = _COUNT.unpack(data[: _COUNT.size])
    while len(descriptors) < count:
        more = socket.recv_fds(sock, _COUNT.size, _PER_MESSAGE)[1]
        if not more:
            raise OSError(0, "it ended amid its descriptors")
        descriptors += more
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    with open(descriptors[0], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        state = msgspec.msgpack.decode(content, type=VolumeState)
    return state, descriptors[1:]


def _refusal(data: bytes) -> Exception:
    decoder: FrameDecoder[FromProvider] = FrameDecoder(FromProvider)
    for answer in decoder.feed(data):
        if isinstance(answer, Failed):
            return VssError(answer.code, answer.message)
    return OSError(0, "it has ended")


def begin(sock: socket.socket) -> None:
    """Say that all is ready, and wait for the word to go. Errors: VssError when the other one goes on."""
    sock.settimeout(None)
    try:
        sock.sendall(_READY)
        word = sock.recv(1)
    except OSError:
        word = b""
    sock.close()
    if word == _NO:
        raise VssError(Code.VSS_E_PROVIDER_IN_USE, "the process before goes on serving, since this one took too long")
