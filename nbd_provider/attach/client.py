"""The client's side of NBD: fixed newstyle negotiation with NBD_OPT_GO, requests, and simple replies.

Structured replies are never asked for, so a server that sends one is broken and is refused.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from dataclasses import dataclass

from shadowset.vss.codes import Code, VssError

NEGOTIATION_TIMEOUT_S = 10.0

_NBDMAGIC = 0x4E42444D41474943
_IHAVEOPT = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x0003E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_REPLY_MAGIC = 0x67446698

_FLAG_FIXED_NEWSTYLE = 1
_FLAG_NO_ZEROES = 2
_OPT_GO = 7
_REP_ACK = 1
_REP_INFO = 3
_REP_ERROR_BIT = 1 << 31
_INFO_EXPORT = 0
_INFO_BLOCK_SIZE = 3
_LONGEST_OPTION_REPLY = 64 * 1024

FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6
FLAG_CAN_MULTI_CONN = 1 << 8

CMD_READ = 0
CMD_WRITE = 1
CMD_DISCONNECT = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_WRITE_ZEROES = 6
CMD_FLAG_NO_HOLE = 1 << 1

ESHUTDOWN = 108
_ERRORS = {
    1: errno.EPERM,
    5: errno.EIO,
    12: errno.ENOMEM,
    22: errno.EINVAL,
    28: errno.ENOSPC,
    75: errno.EOVERFLOW,
    95: errno.EOPNOTSUPP,
}

_REFUSALS = {
    _REP_ERROR_BIT | 1: "it does not know NBD_OPT_GO",
    _REP_ERROR_BIT | 2: "its policy forbids it",
    _REP_ERROR_BIT | 3: "it calls the request invalid",
    _REP_ERROR_BIT | 5: "it wants TLS",
    _REP_ERROR_BIT | 6: "it has no export of that name",
    _REP_ERROR_BIT | 7: "it is shutting down",
    _REP_ERROR_BIT | 8: "it insists on a block size",
}

_OPTION = struct.Struct(">QII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
REPLY_BYTES = _REPLY.size


class NbdError(VssError):
    """The server cannot be reached, does not answer in time, refuses the export or breaks the protocol."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message)


@dataclass(frozen=True)
class Export:
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
    magic, style, flags = struct.unpack(">QQH", stream.receive(18))
    if magic != _NBDMAGIC or style != _IHAVEOPT or not flags & _FLAG_FIXED_NEWSTYLE:
        raise NbdError(f"what listens at {path} does not speak NBD's fixed newstyle negotiation")
    encoded = name.encode()
    wanted = struct.pack(">I", len(encoded)) + encoded + struct.pack(">HH", 1, _INFO_BLOCK_SIZE)
    client_flags = struct.pack(">I", flags & (_FLAG_FIXED_NEWSTYLE | _FLAG_NO_ZEROES))
    stream.send(client_flags + _OPTION.pack(_IHAVEOPT, _OPT_GO, len(wanted)) + wanted)
    infos: dict[int, bytes] = {}
    while (kind := _option_reply(stream, path, name, infos)) != _REP_ACK:
        if kind != _REP_INFO:
            raise NbdError(f"the NBD server at {path} answered NBD_OPT_GO with the unknown reply {kind}")
    return _export(path, name, infos)


def _option_reply(stream: _Stream, path: str, name: str, infos: dict[int, bytes]) -> int:
    """Reads one option reply, files what it says under ``infos``, and returns its type."""
    magic, option, kind, length = _OPTION_REPLY.unpack(stream.receive(_OPTION_REPLY.size))
    if magic != _OPTION_REPLY_MAGIC or option != _OPT_GO or length > _LONGEST_OPTION_REPLY:
        raise NbdError(f"the NBD server at {path} answered NBD_OPT_GO with something that is no option reply")
    payload = stream.receive(length)
    if kind & _REP_ERROR_BIT:
        reason = _REFUSALS.get(kind, f"error {kind & ~_REP_ERROR_BIT}")
        raise NbdError(f'the NBD server at {path} refuses the export "{name}": {reason}')
    if kind == _REP_INFO and length >= 2:
        infos[int.from_bytes(payload[:2], "big")] = payload[2:]
    return int(kind)


def _export(path: str, name: str, infos: dict[int, bytes]) -> Export:
    about = infos.get(_INFO_EXPORT, b"")
    blocks = infos.get(_INFO_BLOCK_SIZE)
    if len(about) != 10 or (blocks is not None and len(blocks) != 12):
        raise NbdError(f'the NBD server at {path} does not describe the export "{name}" as the protocol asks')
    size, flags = struct.unpack(">QH", about)
    if blocks is None:
        return Export(size, flags)
    minimum, _preferred, maximum = struct.unpack(">III", blocks)
    if minimum not in range(1, 65537) or minimum & (minimum - 1) or maximum < minimum:
        raise NbdError(f'the NBD server at {path} gives impossible block sizes ({minimum} to {maximum}) for "{name}"')
    return Export(size, flags, minimum, maximum)


def pack_request(command: int, flags: int, cookie: int, offset: int, length: int) -> bytes:
    """The 28 bytes in front of a request's data."""
    return _REQUEST.pack(_REQUEST_MAGIC, flags, command, cookie, offset, length)


def unpack_reply(data: memoryview, at: int) -> tuple[int, int]:
    """Error number (NBD's own) and cookie of the simple reply that starts at ``at``.

    Errors: NbdError when it is no simple reply.
    """
    magic, error, cookie = _REPLY.unpack_from(data, at)
    if magic != _SIMPLE_REPLY_MAGIC:
        raise NbdError(f"the NBD server sent something that is no simple reply (magic {magic:#010x})")
    return error, cookie


def system_error(number: int) -> int:
    """The errno for an error number of NBD."""
    return _ERRORS.get(number, errno.EIO)
