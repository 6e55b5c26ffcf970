"""Generic netlink: one request, and what the kernel answers. Small, since it runs where memory is short.

Attributes are pairs of number and value; a list as value nests. Numbers and layouts are those of the public headers
``linux/netlink.h`` and ``linux/genetlink.h``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

Attributes: TypeAlias = "Sequence[tuple[int, bytes | Attributes]]"

_PROTOCOL: Final = 16  # NETLINK_GENERIC; Python's socket module does not name it
_HEADER: Final = struct.Struct("=IHHII")
_GENERIC: Final = struct.Struct("=BBxx")
_ATTRIBUTE: Final = struct.Struct("=HH")
_REQUEST_WITH_ACK: Final = 5
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_ERROR: Final = 2
_MOST: Final = 1 << 16
_PATIENCE_S: Final = 30.0

_CONTROLLER: Final = 16
_GET_FAMILY: Final = 3
_FAMILY_ID: Final = 1
_FAMILY_NAME: Final = 2


def u8(value: int) -> bytes:
    """An attribute's value of one byte."""
    return struct.pack("=B", value)


def u32(value: int) -> bytes:
    """An attribute's value of four bytes."""
    return struct.pack("=I", value)


def u64(value: int) -> bytes:
    """An attribute's value of eight bytes."""
    return struct.pack("=Q", value)


def number(value: bytes) -> int:
    """Back from ``u8``, ``u32``, ``u64``."""
    return int.from_bytes(value, sys.byteorder)


def text(value: str) -> bytes:
    """An attribute's value that ends with a zero."""
    return value.encode() + b"\0"


def pack(attributes: Attributes) -> bytes:
    """As they stand in a message: each with its length in front, beginning at a multiple of four."""
    data = bytearray()
    for kind, value in attributes:
        nested = not isinstance(value, bytes)
        body = value if isinstance(value, bytes) else pack(value)
        data += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(body), kind | (_NESTED if nested else 0)) + body
        data += bytes(-len(data) % 4)
    return bytes(data)


def unpack(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and value of each; a nested one's value is for ``unpack`` again. Errors: OSError (EBADMSG)."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) // 4 * 4


def family(name: str) -> int:
    """The number of a family. Errors: OSError, ENOENT when the kernel has none of this name."""
    for answer in ask(_CONTROLLER, _GET_FAMILY, [(_FAMILY_NAME, text(name))]):
        if _FAMILY_ID in answer:
            return number(answer[_FAMILY_ID])
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def ask(family_number: int, command: int, attributes: Attributes) -> list[dict[int, bytes]]:
    """The attributes of each message that comes in answer. Errors: OSError with the kernel's number."""
    body = _GENERIC.pack(command, 1) + pack(attributes)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOL) as sock:
        sock.settimeout(_PATIENCE_S)
        sock.bind((0, 0))
        sock.sendall(_HEADER.pack(_HEADER.size + len(body), family_number, _REQUEST_WITH_ACK, 1, 0) + body)
        answers: list[dict[int, bytes]] = []
        while not _take(sock.recv(_MOST), answers):
            pass
        return answers


def _take(data: bytes, answers: list[dict[int, bytes]]) -> bool:
    """Files what one datagram holds; whether it ended the answer. Errors: OSError with the kernel's number."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        body = data[at + _HEADER.size : at + max(length, _HEADER.size)]
        if kind == _ERROR:
            error = -int.from_bytes(body[:4], sys.byteorder, signed=True)
            if error:
                raise OSError(error, os.strerror(error))
            return True
        answers.append(dict(unpack(body[_GENERIC.size :])))
        at += (max(length, _HEADER.size) + 3) // 4 * 4
    return False
