"""Negotiation of an NBD connection: fixed newstyle, as a pure machine that is fed bytes and answers with bytes."""

from __future__ import annotations

import enum
import logging
import struct
from typing import Final

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.block_status import Context
from shadowset.nbd_provider.exports import DescribedDirectory, Directory, Export, GuardedDirectory
from shadowset.nbd_provider.handover_state import NegotiationState
from shadowset.nbd_provider.requests import ProtocolError
from shadowset.vss.codes import VssError

log = logging.getLogger(__name__)

NAMESPACES = (p.CONTEXT_ALLOCATION.partition(":")[0] + ":", p.CONTEXT_DIRTY.partition(":")[0] + ":", p.CONTEXT_DIRTY)
"""Queries that list all contexts which begin with them."""
OPTIONS_AT_ONCE: Final = 4
"""So many are answered before other clients have their turn, since a list of copies takes milliseconds."""


class Tls(enum.Enum):
    """Whether a connection may, must or cannot be encrypted."""

    OFF = "off"
    ON = "on"
    REQUIRE = "require"


class TlsError(OSError):
    """The TLS handshake or a TLS record is not right; the connection is to be closed."""


class Negotiation:
    """One client's negotiation. When ``export`` is set the transmission phase begins with ``rest``.

    When ``wants_tls`` is set the client waits for a TLS handshake, after which ``secured`` is to be called.
    """

    def __init__(self, directory: Directory, tls: Tls = Tls.OFF) -> None:
        self._directory = directory
        self._tls = tls
        self._buffer = bytearray()
        self._flags_known = False
        self._no_zeroes = False
        self._contexts: list[tuple[int, str]] = []
        self._contexts_of = b""
        self._refusal = ""
        self.structured = False
        self.wants_tls = False
        self.secure = False
        self.export: Export | None = None
        self.ended = False

    @staticmethod
    def greeting() -> bytes:
        """What the server says first."""
        flags = p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES
        return p.GREETING.pack(p.NBD_MAGIC, p.OPTION_MAGIC, flags)

    @property
    def contexts(self) -> list[tuple[int, str]]:
        """The metadata contexts that were chosen, by id."""
        return self._contexts

    def state(self) -> NegotiationState:
        """All that another process must know to go on."""
        fields = self._buffer, self._flags_known, self._no_zeroes, self._contexts, self._contexts_of
        return NegotiationState(bytes(fields[0]), *fields[1:], structured=self.structured)

    @classmethod
    def restored(cls, directory: Directory, state: NegotiationState) -> Negotiation:
        """The negotiation that another process described."""
        self = cls(directory)
        self._buffer += state.received
        self._flags_known, self._no_zeroes = state.flags_known, state.no_zeroes
        self._contexts, self._contexts_of = list(state.contexts), state.contexts_of
        self.structured = state.structured
        return self

    @property
    def rest(self) -> bytes:
        """Bytes that came after the end of the negotiation."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """What to answer, to a few options; there may be ``more``. Errors: ProtocolError."""
        self._buffer += data
        answer = bytearray()
        if not self._flags_known:
            if len(self._buffer) < p.CLIENT_FLAGS.size:
                return b""
            self._take_flags()
        for _ in range(OPTIONS_AT_ONCE):
            option = None if self._over else self._take_option()
            if option is None:
                break
            answer += self._answer(*option)
        if self.wants_tls and self._buffer:
            raise ProtocolError("it sent more before the TLS handshake that it asked for")
        return bytes(answer)

    @property
    def more(self) -> bool:
        """Whether another option has come, or what is none, so that ``feed`` has to be called again."""
        if self._over or not self._flags_known or len(self._buffer) < p.OPTION.size:
            return False
        magic, _, length = p.OPTION.unpack_from(self._buffer)
        return bool(magic != p.OPTION_MAGIC or length > p.MAXIMUM_OPTION or len(self._buffer) >= p.OPTION.size + length)

    @property
    def _over(self) -> bool:
        return self.export is not None or self.ended or self.wants_tls

    def secured(self) -> None:
        """From now on all bytes come through TLS; what was agreed before counts for nothing."""
        self.wants_tls = False
        self.secure = True
        self.structured = False
        self._contexts = []

    def known_as(self, names: frozenset[str]) -> None:
        """The client's names, after the handshake; where it matters who asks, it sees what these may see."""
        if isinstance(self._directory, GuardedDirectory):
            self._directory = self._directory.seen_by(names)

    def open_contexts(self) -> list[tuple[int, Context]]:
        """The metadata contexts that were chosen for the export, by id."""
        assert self.export is not None
        return [(number, self.export.open_context(name)) for number, name in self._contexts]

    def _take_flags(self) -> None:
        (flags,) = p.CLIENT_FLAGS.unpack_from(self._buffer)
        del self._buffer[: p.CLIENT_FLAGS.size]
        if flags & ~(p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES):
            raise ProtocolError(f"it sent unknown flags 0x{flags:x}")
        self._no_zeroes = bool(flags & p.FLAG_NO_ZEROES)
        self._flags_known = True

    def _take_option(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < p.OPTION.size:
            return None
        magic, option, length = p.OPTION.unpack_from(self._buffer)
        if magic != p.OPTION_MAGIC:
            raise ProtocolError("it sent something that is no option")
        if length > p.MAXIMUM_OPTION:
            raise ProtocolError(f"it sent an option of {length} bytes")
        end = p.OPTION.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[p.OPTION.size : end])
        del self._buffer[:end]
        return option, body

    def _answer(self, option: int, body: bytes) -> bytes:
        if option == p.OPT_ABORT:
            self.ended = True
            return reply(option, p.REP_ACK)
        if option == p.OPT_STARTTLS:
            return self._start_tls(body)
        if self._tls is Tls.REQUIRE and not self.secure:
            if option == p.OPT_EXPORT_NAME:
                raise ProtocolError("it asked for an export without TLS, which this server requires")
            return reply(option, p.REP_ERR_TLS_REQD, b"this server requires TLS; start it first")
        return self._answer_open(option, body)

    def _answer_open(self, option: int, body: bytes) -> bytes:
        if option in (p.OPT_INFO, p.OPT_GO):
            return self._info(option, body)
        if option in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
            return self._meta_context(option, body)
        simple = {
            p.OPT_EXPORT_NAME: self._export_name,
            p.OPT_LIST: self._list,
            p.OPT_STRUCTURED_REPLY: self._structured_reply,
        }
        if option in simple:
            return simple[option](body)
        return reply(option, p.REP_ERR_UNSUP, b"this server does not know the option")

    def _start_tls(self, body: bytes) -> bytes:
        if body:
            return reply(p.OPT_STARTTLS, p.REP_ERR_INVALID, b"this option takes no data")
        if self.secure:
            return reply(p.OPT_STARTTLS, p.REP_ERR_INVALID, b"TLS is running already")
        if self._tls is Tls.OFF:
            return reply(p.OPT_STARTTLS, p.REP_ERR_UNSUP, b"this server has no TLS on this socket")
        self.wants_tls = True
        return reply(p.OPT_STARTTLS, p.REP_ACK)

    def _structured_reply(self, body: bytes) -> bytes:
        if body:
            return reply(p.OPT_STRUCTURED_REPLY, p.REP_ERR_INVALID, b"this option takes no data")
        self.structured = True
        return reply(p.OPT_STRUCTURED_REPLY, p.REP_ACK)

    # ---- exports ----

    def _find(self, name: bytes) -> Export | None:
        self._refusal = ""
        if len(name) > p.MAXIMUM_NAME:
            return None
        try:
            return self._directory.find(name.decode())
        except UnicodeDecodeError:
            return None
        except (VssError, OSError) as error:
            log.warning("the export %r cannot be opened: %s", name[:80].decode(errors="replace"), error)
            self._refusal = str(error)
            return None

    def _not_found(self, option: int) -> bytes:
        if self._refusal:
            return reply(option, p.REP_ERR_POLICY, self._refusal.encode())
        return reply(option, p.REP_ERR_UNKNOWN, b"no export has this name; ask for the list")

    def _flags(self, export: Export) -> int:
        return export.flags | (p.FLAG_SEND_DF if self.structured else 0)

    def _choose(self, export: Export, name: bytes) -> None:
        """Contexts count only for the export that they were chosen for."""
        self.export = export
        if name != self._contexts_of:
            self._contexts = []

    def _export_name(self, name: bytes) -> bytes:
        export = self._find(name)
        if export is None:
            raise ProtocolError(f"it asked for an export {name[:80]!r} that does not exist")
        self._choose(export, name)
        answer = p.EXPORT_INFO.pack(export.size, self._flags(export))
        return answer if self._no_zeroes else answer + bytes(124)

    def _list(self, body: bytes) -> bytes:
        if body:
            return reply(p.OPT_LIST, p.REP_ERR_INVALID, b"this option takes no data")
        answer = bytearray()
        for name, words in self._described():
            encoded = name.encode()
            answer += reply(p.OPT_LIST, p.REP_SERVER, struct.pack(">I", len(encoded)) + encoded + words.encode())
        return bytes(answer) + reply(p.OPT_LIST, p.REP_ACK)

    def _described(self) -> list[tuple[str, str]]:
        if isinstance(self._directory, DescribedDirectory):
            return self._directory.descriptions()
        return [(name, "") for name in self._directory.names()]

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
            return self._not_found(option)
        answer = self._facts(option, export, wanted) + reply(option, p.REP_ACK)
        if option == p.OPT_GO:
            self._choose(export, name)
        else:
            export.close()
        return answer

    def _facts(self, option: int, export: Export, wanted: tuple[int, ...]) -> bytes:
        answer = reply(option, p.REP_INFO, struct.pack(">HQH", p.INFO_EXPORT, export.size, self._flags(export)))
        if p.INFO_NAME in wanted:
            answer += reply(option, p.REP_INFO, struct.pack(">H", p.INFO_NAME) + export.name.encode())
        if p.INFO_DESCRIPTION in wanted:
            answer += reply(option, p.REP_INFO, struct.pack(">H", p.INFO_DESCRIPTION) + export.description.encode())
        sizes = struct.pack(">HIII", p.INFO_BLOCK_SIZE, p.MINIMUM_BLOCK, p.PREFERRED_BLOCK, p.MAXIMUM_PAYLOAD)
        return answer + reply(option, p.REP_INFO, sizes)

    # ---- metadata contexts ----

    def _meta_context(self, option: int, body: bytes) -> bytes:
        if option == p.OPT_SET_META_CONTEXT:
            self._contexts = []
        if not self.structured:
            return reply(option, p.REP_ERR_INVALID, b"metadata contexts need structured replies; ask for these first")
        parsed = parse_queries(body)
        if parsed is None:
            return reply(option, p.REP_ERR_INVALID, b"the option's data is no list of queries")
        name, queries = parsed
        export = self._find(name)
        if export is None:
            return self._not_found(option)
        try:
            names = export.context_names()
        except (VssError, OSError) as error:
            log.warning("the metadata contexts of %s cannot be listed: %s", export.name, error)
            return reply(option, p.REP_ERR_POLICY, str(error).encode())
        finally:
            export.close()
        if option == p.OPT_LIST_META_CONTEXT:
            found = [(0, context) for context in names if not queries or listed(context, queries)]
        else:
            found = list(enumerate((context for context in names if context in queries), 1))
            self._contexts, self._contexts_of = found, name
        answer = bytearray()
        for number, context in found:
            answer += reply(option, p.REP_META_CONTEXT, struct.pack(">I", number) + context.encode())
        return bytes(answer) + reply(option, p.REP_ACK)


def listed(context: str, queries: set[str]) -> bool:
    """Whether a context is asked for by its name or by what it begins with."""
    return context in queries or any(space in queries and context.startswith(space) for space in NAMESPACES)


def parse_queries(body: bytes) -> tuple[bytes, set[str]] | None:
    """Export name and queries of an option about metadata contexts, or None when it is malformed."""
    try:
        (length,) = struct.unpack_from(">I", body)
        name = body[4 : 4 + length]
        place = 4 + length
        (count,) = struct.unpack_from(">I", body, place)
        place += 4
        queries = set()
        for _ in range(count):
            (length,) = struct.unpack_from(">I", body, place)
            query = body[place + 4 : place + 4 + length].decode()
            place += 4 + length
            if length > p.MAXIMUM_NAME or ":" not in query:
                return None
            queries.add(query)
    except (struct.error, UnicodeDecodeError):
        return None
    return (name, queries) if place == len(body) else None


def reply(option: int, kind: int, data: bytes = b"") -> bytes:
    """One option reply."""
    return p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, kind, len(data)) + data
