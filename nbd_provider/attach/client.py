"""The client's side of NBD: fixed newstyle negotiation with NBD_OPT_GO, requests, and simple replies.

Structured replies are never asked for, so a server that sends one is broken and is refused.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import NamedTuple

from shadowset.nbd_provider import protocol as p
from shadowset.vss.codes import Code, VssError

NEGOTIATION_TIMEOUT_S = 10.0
DEAD_TIME_S = 600.0
"""How long those who use a device wait for a server before they see errors, unless told otherwise."""

_LONGEST_OPTION_REPLY = p.MAXIMUM_OPTION
_LONGEST_REASON = 400
REPLY_BYTES = p.SIMPLE_REPLY.size

_REFUSALS = {
    p.REP_ERR_UNSUP: "it does not know NBD_OPT_GO",
    p.REP_ERR_POLICY: "its policy forbids it",
    p.REP_ERR_INVALID: "it calls the request invalid",
    p.REP_ERR_TLS_REQD: "it wants TLS",
    p.REP_ERR_UNKNOWN: "it has no export of that name",
    p.REP_ERR_SHUTDOWN: "it is shutting down",
    p.REP_ERR_BLOCK_SIZE_REQD: "it insists on a block size",
}


class NbdError(VssError):
    """The server cannot be reached, does not answer in time, refuses the export or breaks the protocol."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message)


class Export(NamedTuple):
    """What the server says of an export: bytes, transmission flags, and its block sizes in bytes."""

    size: int
    flags: int
    minimum_block: int = 1
    maximum_payload: int = 32 * 1024 * 1024

    @property
    def sector_size(self) -> int:
        """The logical sector size of a device on this export: never smaller than the server's unit."""
        return max(512, self.minimum_block)

    def can(self, flag: int) -> bool:
        """Whether a transmission flag is set."""
        return bool(self.flags & flag)


class _Stream:
    """Exact reads with one deadline for all of them, so that a server cannot hold us by sending slowly."""

    def __init__(self, sock: socket.socket, where: str, deadline: float) -> None:
        self._sock = sock
        self._where = where
        self._deadline = deadline

    def _arm(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)

    def send(self, data: bytes) -> None:
        self._arm()
        self._sock.sendall(data)

    def receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._arm()
            part = self._sock.recv(count - len(data))
            if not part:
                raise NbdError(f"the NBD server at {self._where} closed the connection while negotiating")
            data += part
        return bytes(data)


def connect(path: str, name: str, timeout: float = NEGOTIATION_TIMEOUT_S) -> tuple[socket.socket, Export]:
    """A connected blocking socket in the transmission phase of export ``name``, and what the server says of it.

    Errors: NbdError, within ``timeout`` seconds.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        stream = _Stream(sock, path, time.monotonic() + timeout)
        sock.settimeout(timeout)
        sock.connect(path)
        export = _negotiate(stream, path, name)
        sock.settimeout(None)
    except TimeoutError as error:
        sock.close()
        raise NbdError(f"the NBD server at {path} did not answer within {timeout:g} s: look at its log") from error
    except OSError as error:
        sock.close()
        raise NbdError(f"no NBD server answers at {path} ({error}): start the provider first") from error
    except NbdError:
        sock.close()
        raise
    return sock, export


def _negotiate(stream: _Stream, path: str, name: str) -> Export:
    magic, style, flags = p.GREETING.unpack(stream.receive(p.GREETING.size))
    if magic != p.NBD_MAGIC or style != p.OPTION_MAGIC or not flags & p.FLAG_FIXED_NEWSTYLE:
        raise NbdError(f"what listens at {path} does not speak NBD's fixed newstyle negotiation")
    encoded = name.encode()
    wanted = struct.pack(">I", len(encoded)) + encoded + struct.pack(">HH", 1, p.INFO_BLOCK_SIZE)
    client_flags = p.CLIENT_FLAGS.pack(flags & (p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES))
    stream.send(client_flags + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, len(wanted)) + wanted)
    infos: dict[int, bytes] = {}
    while (kind := _option_reply(stream, path, name, infos)) != p.REP_ACK:
        if kind != p.REP_INFO:
            raise NbdError(f"the NBD server at {path} answered NBD_OPT_GO with the unknown reply {kind}")
    return _export(path, name, infos)


def _option_reply(stream: _Stream, path: str, name: str, infos: dict[int, bytes]) -> int:
    """Reads one option reply, files what it says under ``infos``, and returns its type."""
    magic, option, kind, length = p.OPTION_REPLY.unpack(stream.receive(p.OPTION_REPLY.size))
    if magic != p.OPTION_REPLY_MAGIC or option != p.OPT_GO or length > _LONGEST_OPTION_REPLY:
        raise NbdError(f"the NBD server at {path} answered NBD_OPT_GO with something that is no option reply")
    payload = stream.receive(length)
    if kind & p.REP_ERROR_BIT:
        reason = _REFUSALS.get(kind, f"error {kind & ~p.REP_ERROR_BIT}")
        reason += f" ({payload.decode(errors='replace')[:_LONGEST_REASON]})" if payload else ""
        raise NbdError(f'the NBD server at {path} refuses the export "{name}": {reason}')
    if kind == p.REP_INFO and length >= 2:
        infos[int.from_bytes(payload[:2], "big")] = payload[2:]
    return int(kind)


def _export(path: str, name: str, infos: dict[int, bytes]) -> Export:
    about = infos.get(p.INFO_EXPORT, b"")
    blocks = infos.get(p.INFO_BLOCK_SIZE)
    if len(about) != p.EXPORT_INFO.size or (blocks is not None and len(blocks) != 12):
        raise NbdError(f'the NBD server at {path} does not describe the export "{name}" as the protocol asks')
    size, flags = p.EXPORT_INFO.unpack(about)
    if blocks is None:
        return Export(size, flags)
    minimum, _preferred, maximum = struct.unpack(">III", blocks)
    if minimum not in range(1, 65537) or minimum & (minimum - 1) or maximum < minimum:
        raise NbdError(f'the NBD server at {path} gives impossible block sizes ({minimum} to {maximum}) for "{name}"')
    return Export(size, flags, minimum, maximum)


def pack_request(command: int, flags: int, cookie: int, offset: int, length: int) -> bytes:
    """The 28 bytes in front of a request's data."""
    return p.REQUEST.pack(p.REQUEST_MAGIC, flags, command, cookie, offset, length)


def unpack_reply(data: memoryview, at: int) -> tuple[int, int]:
    """Error number (NBD's own) and cookie of the simple reply that starts at ``at``.

    Errors: NbdError when it is no simple reply.
    """
    magic, error, cookie = p.SIMPLE_REPLY.unpack_from(data, at)
    if magic != p.SIMPLE_REPLY_MAGIC:
        raise NbdError(f"the NBD server sent something that is no simple reply (magic {magic:#010x})")
    return error, cookie
