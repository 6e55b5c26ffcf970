"""Negotiation of an NBD connection: fixed newstyle, as a pure machine that is fed bytes and answers with bytes."""

from __future__ import annotations

import struct

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.exports import Directory, Export
from shadowset.vss.codes import VssError


class NegotiationError(Exception):
    """The client does not speak the protocol; the connection is to be closed."""


class Negotiation:
    """One client's negotiation. When ``export`` is set the transmission phase begins with ``rest``."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._buffer = bytearray()
        self._flags_known = False
        self._no_zeroes = False
        self.export: Export | None = None
        self.ended = False

    @staticmethod
    def greeting() -> bytes:
        """What the server says first."""
        flags = p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES
        return p.GREETING.pack(p.NBD_MAGIC, p.OPTION_MAGIC, flags)

    @property
    def rest(self) -> bytes:
        """Bytes that came after the end of the negotiation."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """What to answer. Errors: NegotiationError."""
        self._buffer += data
        answer = bytearray()
        if not self._flags_known:
            if len(self._buffer) < p.CLIENT_FLAGS.size:
                return b""
            self._take_flags()
        while self.export is None and not self.ended:
            option = self._take_option()
            if option is None:
                break
            answer += self._answer(*option)
        return bytes(answer)

    def _take_flags(self) -> None:
        (flags,) = p.CLIENT_FLAGS.unpack_from(self._buffer)
        del self._buffer[: p.CLIENT_FLAGS.size]
        if flags & ~(p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES):
            raise NegotiationError(f"the client sent unknown flags 0x{flags:x}")
        self._no_zeroes = bool(flags & p.FLAG_NO_ZEROES)
        self._flags_known = True

    def _take_option(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < p.OPTION.size:
            return None
        magic, option, length = p.OPTION.unpack_from(self._buffer)
        if magic != p.OPTION_MAGIC:
            raise NegotiationError("the client sent something that is no option")
        if length > p.MAXIMUM_OPTION:
            raise NegotiationError(f"the client sent an option of {length} bytes")
        end = p.OPTION.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[p.OPTION.size : end])
        del self._buffer[:end]
        return option, body

    def _answer(self, option: int, body: bytes) -> bytes:
        if option == p.OPT_EXPORT_NAME:
            return self._export_name(body)
        if option == p.OPT_ABORT:
            self.ended = True
            return reply(option, p.REP_ACK)
        if option == p.OPT_LIST:
            return self._list(body)
        if option in (p.OPT_INFO, p.OPT_GO):
            return self._info(option, body)
        return reply(option, p.REP_ERR_UNSUP, b"this server does not know the option")

    def _find(self, name: bytes) -> Export | None:
        if len(name) > p.MAXIMUM_NAME:
            return None
        try:
            return self._directory.find(name.decode())
        except (UnicodeDecodeError, VssError):
            return None

    def _export_name(self, name: bytes) -> bytes:
        export = self._find(name)
        if export is None:
            raise NegotiationError(f"the client asked for an export {name[:80]!r} that does not exist")
        self.export = export
        answer = p.EXPORT_INFO.pack(export.size, export.flags)
        return answer if self._no_zeroes else answer + bytes(124)

    def _list(self, body: bytes) -> bytes:
        if body:
            return reply(p.OPT_LIST, p.REP_ERR_INVALID, b"this option takes no data")
        answer = bytearray()
        for name in self._directory.names():
            encoded = name.encode()
            answer += reply(p.OPT_LIST, p.REP_SERVER, struct.pack(">I", len(encoded)) + encoded)
        return bytes(answer) + reply(p.OPT_LIST, p.REP_ACK)

    def _info(self, option: int, body: bytes) -> bytes:
        try:
            (length,) = struct.unpack_from(">I", body)
            name = body[4 : 4 + length]
            (count,) = struct.unpack_from(">H", body, 4 + length)
            wanted = struct.unpack_from(f">{count}H", body, 6 + length)
        except struct.error:
            return reply(option, p.REP_ERR_INVALID, b"the option's data is too short")
        if len(name) != length or len(body) != 6 + length + 2 * count:
            return reply(option, p.REP_ERR_INVALID, b"the option's length does not fit its data")
        export = self._find(name)
        if export is None:
            return reply(option, p.REP_ERR_UNKNOWN, b"no export has this name; ask for the list")
        answer = self._facts(option, export, wanted) + reply(option, p.REP_ACK)
        if option == p.OPT_GO:
            self.export = export
        else:
            export.close()
        return answer

    @staticmethod
    def _facts(option: int, export: Export, wanted: tuple[int, ...]) -> bytes:
        answer = reply(option, p.REP_INFO, struct.pack(">HQH", p.INFO_EXPORT, export.size, export.flags))
        if p.INFO_NAME in wanted:
            answer += reply(option, p.REP_INFO, struct.pack(">H", p.INFO_NAME) + export.name.encode())
        if p.INFO_DESCRIPTION in wanted:
            answer += reply(option, p.REP_INFO, struct.pack(">H", p.INFO_DESCRIPTION) + export.description.encode())
        sizes = struct.pack(">HIII", p.INFO_BLOCK_SIZE, p.MINIMUM_BLOCK, p.PREFERRED_BLOCK, p.MAXIMUM_PAYLOAD)
        return answer + reply(option, p.REP_INFO, sizes)


def reply(option: int, kind: int, data: bytes = b"") -> bytes:
    """One option reply."""
    return p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, kind, len(data)) + data
