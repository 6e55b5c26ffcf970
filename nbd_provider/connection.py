"""One NBD connection: takes all requests that are waiting in one receive and answers them in one send.

Python pays per system call, so a batch is the unit. Parsing, execution and replies are modules of their own; this one
joins them to a socket and to the event loop.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from shadowset.nbd_provider.exports import Directory, Export
from shadowset.nbd_provider.handover_state import ConnectionState, NegotiationState
from shadowset.nbd_provider.handshake import Negotiation, Tls, TlsError
from shadowset.nbd_provider.random_reads import RandomReads
from shadowset.nbd_provider.replies import Data, FilePart, NotCached, Replies
from shadowset.nbd_provider.requests import ProtocolError, RequestBuffer
from shadowset.nbd_provider.store.shares import share
from shadowset.nbd_provider.threads import Submit, next_turn
from shadowset.nbd_provider.transmission import Transmission
from shadowset.vss.codes import Code, VssError

if TYPE_CHECKING:
    import ssl

    from shadowset.nbd_provider.tls import TlsStream

log = logging.getLogger(__name__)

MAX_UNSENT: Final = share(2 << 20, least=512 << 10)
"""More would only leave the processor's caches before the client takes it; the socket holds as much."""
SEND_BUFFER: Final = share(1 << 20, least=256 << 10)
SO_SNDBUFFORCE: Final = 32
GONE: Final = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT)


def enlarge(sock: socket.socket) -> None:
    """Room for several large replies, so that the client is not waited for amid each; as much as is allowed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


class Connection:
    """A client. ``submit(work, done)`` runs ``work`` in a thread, then ``done(result or error)`` in the server's."""

    def __init__(
        self,
        sock: socket.socket,
        directory: Directory,
        submit: Submit,
        tls: Tls = Tls.OFF,
        keys: ssl.SSLContext | None = None,
        random_reads: RandomReads | None = None,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.closed = self.paused = False
        self._receive: Callable[[memoryview], int] = sock.recv_into
        self._send: Callable[[Sequence[Data]], int] = sock.sendmsg
        self._submit = submit
        self._random_reads = random_reads
        self._negotiation: Negotiation | None = Negotiation(directory, tls)
        self._keys = keys
        self._tls: TlsStream | None = None
        self._known = False
        self._transmission: Transmission | None = None
        self._buffer = RequestBuffer()
        self._replies = Replies()
        self._replies.raw(Negotiation.greeting())
        if sock.family == socket.AF_UNIX:
            self._replies.socket = sock.fileno()
            enlarge(sock)
        self._contexts: list[tuple[int, str]] = []
        self._fetching = False
        self._leaving = False
        self._stalled = False
        self._waits = False

    # ---- what the event loop asks ----

    @property
    def negotiating(self) -> bool:
        """Whether the client has not chosen an export yet."""
        return self._negotiation is not None

    @property
    def wants_read(self) -> bool:
        """Whether more requests may be taken."""
        return not self._leaving and not self._stalled and not self.paused and self._has_room

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return not self._fetching and (self._transmission is None or self._transmission.idle)

    @property
    def _has_room(self) -> bool:
        """Whether what the client gets or waits for is little enough to do more for it."""
        return self._replies.unsent < MAX_UNSENT and (self._transmission is None or not self._transmission.full)

    @property
    def wants_write(self) -> bool:
        """Whether replies are waiting for room in the socket."""
        return (bool(self._replies) and not self._fetching) or (self._tls is not None and self._tls.wants_write)

    def on_readable(self) -> None:
        """Take what is there."""
        try:
            count = self._receive(self._buffer.room())
        except BlockingIOError:
            return
        except TlsError as error:
            log.warning("a client is disconnected: %s", error)
            count = 0
        except OSError:
            count = 0
        if not count:
            self.close()
            return
        self._buffer.received(count)
        self._take()

    def _take(self) -> None:
        try:
            if self._transmission is not None:
                self._transmit(self._transmission)
            else:
                self._negotiate()
        except ProtocolError as error:
            log.warning("a client is disconnected: %s", error)
            self.flush()
            self.close()

    def flush(self) -> None:
        """Send replies; what the socket does not take waits until it can."""
        if not self._send_now():
            return
        if self._leaving and (self._transmission is None or self._transmission.idle):
            self.close()
        elif self._stalled and not self.paused and self._has_room:
            if self._transmission is not None:
                self._transmit(self._transmission)
            elif not self._waits:
                self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """What has come is gone on with in a later turn of the loop."""

        def done() -> None:
            self._waits = False
            if not self.closed and not self.paused:
                self._take()

        self._waits = True
        next_turn(self._submit, done)

    def resume(self) -> None:
        """Do what has come before or during a pause."""
        if self._transmission is not None and not self._stalled:
            self._transmit(self._transmission)
        else:
            self.flush()

    def _send_now(self) -> bool:
        """Whether everything has gone out."""
        if self.closed or self._fetching:
            return False
        try:
            self._replies.send(self._send)
            if self._tls is not None:
                self._tls.push()
        except BlockingIOError:
            return False
        except NotCached as missing:
            self._fetch(missing.part)
            return False
        except OSError as error:
            self._broken(error)
            return False
        return True

    def _fetch(self, part: FilePart) -> None:
        """Its header may be out already, so all else waits behind it."""

        def done(content: object) -> None:
            self._fetching = False
            if self.closed:
                return
            if isinstance(content, bytes):
                self._replies.fetched(content)
                self.flush()
            elif isinstance(content, BaseException):
                self._broken(content)

        self._fetching = True
        self._submit(part.read, done)

    def _broken(self, error: BaseException) -> None:
        """Nothing can be said within a reply that has begun. A client that asks again is told the error then."""
        if getattr(error, "errno", None) not in GONE:
            log.error("a client is disconnected amid a reply: %s", error)
        self.close()

    def release_held(self) -> None:
        """The gate is open: do what it held back."""
        if self._transmission is not None and self._transmission.release_held():
            self.flush()

    def close(self) -> None:
        """End the connection; what threads still do for it is dropped.

        It lets go of the transmission, which calls it back: the memory of both would else wait for Python's search for
        rings, which hundreds of connections with some MiB each may precede.
        """
        if not self.closed:
            self.closed = True
            if self._tls is not None:
                self._tls.close()
            self.sock.close()
            transmission, self._transmission = self._transmission, None
            if transmission is not None:
                transmission.close()

    # ---- from one process to another ----

    def state(self) -> ConnectionState:
        """All that another process must know to go on with the socket; nothing may be under way. Errors: OSError."""
        state = ConnectionState(self._buffer.left(), self._replies.rest(), self._leaving)
        if self._negotiation is not None:
            state.negotiation = self._negotiation.state()
        elif self._transmission is not None:
            state.export = self._transmission.export_name
            state.negotiation = NegotiationState(contexts=self._contexts, structured=self._replies.structured)
        return state

    @classmethod
    def restored(
        cls,
        sock: socket.socket,
        state: ConnectionState,
        directory: Directory,
        submit: Submit,
        random_reads: RandomReads | None = None,
    ) -> Connection:
        """The connection that another process described; to be resumed. Errors: VssError when its export is gone."""
        self = cls(sock, directory, submit, random_reads=random_reads)
        self._replies.inherit(state.unsent)
        self._leaving = state.leaving
        self._negotiation = negotiation = Negotiation.restored(directory, state.negotiation)
        self._buffer.put(state.received)
        self._stalled = negotiation.more
        if state.export is not None:
            negotiation.export = directory.find(state.export)
            if negotiation.export is None:
                raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no export {state.export!r} any more")
            self._begin(negotiation, negotiation.export)
        return self

    # ---- the two phases ----

    def _negotiate(self) -> None:
        negotiation = self._negotiation
        assert negotiation is not None
        self._stalled = False
        if self._tls is not None and not self._known:
            self._known = True
            negotiation.known_as(self._tls.names)
        self._replies.raw(negotiation.feed(self._buffer.take()))
        if negotiation.ended:
            self._leaving = True
        elif negotiation.wants_tls:
            self._start_tls(negotiation)
        elif negotiation.export is not None:
            self._buffer.put(negotiation.rest)
            self._transmit(self._begin(negotiation, negotiation.export))
        else:
            self._stalled = negotiation.more
        self.flush()

    def _begin(self, negotiation: Negotiation, export: Export) -> Transmission:
        """The transmission phase."""
        self._replies.structured = negotiation.structured
        self._contexts = negotiation.contexts
        self._transmission = Transmission(
            export,
            negotiation.open_contexts(),
            self._replies,
            self._submit,
            self.flush,
            self.close,
            self._send_now,
            self._random_reads,
        )
        self._negotiation = None
        return self._transmission

    def _start_tls(self, negotiation: Negotiation) -> None:
        """The consent goes out in plain text; everything after it is encrypted."""
        self.flush()
        if self._replies or self._keys is None:
            raise ProtocolError("it does not take the answer to its wish for TLS")
        from shadowset.nbd_provider.tls import TlsStream  # is there already, by whoever made the keys

        self._tls = TlsStream(self.sock, self._keys)
        self._replies.socket = -1
        self._receive, self._send = self._tls.recv_into, self._tls.sendmsg
        negotiation.secured()

    def _transmit(self, transmission: Transmission) -> None:
        """Do what has come, batch by batch while there is room for the answers; the rest waits for ``flush``."""
        self._stalled = False
        while not self.closed:
            more = transmission.do_plain(self._buffer)
            if not more:
                batch = self._buffer.requests(transmission.most_answer)
                if batch:
                    transmission.process(batch)
                    self._leaving = transmission.leaving
                more = self._buffer.more
            if self._leaving or not more:
                break
            self._send_now()
            if not self._has_room:
                self._stalled = True
                return
        self._buffer.make_room()
        self.flush()
