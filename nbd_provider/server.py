"""The event loop of a provider: NBD connections, control connections, the gate's deadline, and the threads."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shadowset.nbd_provider.connection import Connection
from shadowset.nbd_provider.exports import Directory
from shadowset.nbd_provider.handshake import Tls
from shadowset.nbd_provider.random_reads import SECONDS
from shadowset.nbd_provider.threads import Done, Threads, Work
from shadowset.vss.codes import Code, VssError

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

STORAGE_THREADS = 2
MAX_CONNECTIONS = 256
NEGOTIATION_SECONDS = 30.0
DRAIN_SECONDS = 5.0
TICK = 1.0


class Client(Protocol):
    """A connected socket in the loop."""

    sock: socket.socket
    closed: bool
    paused: bool
    """Take nothing more, neither from the socket nor of what has come already."""

    @property
    def idle(self) -> bool:
        """Whether nothing that it asked for is under way."""

    @property
    def wants_read(self) -> bool:
        """Whether to wait for input."""

    @property
    def wants_write(self) -> bool:
        """Whether to wait for room."""

    def on_readable(self) -> None:
        """Input is there."""

    def flush(self) -> None:
        """There is room."""

    def resume(self) -> None:
        """After a pause, go on with what has come already."""

    def close(self) -> None:
        """End it."""


@dataclass
class Drain:
    """A wish to end without an end of the connections: whose it is, and what to do when it cannot be granted."""

    client: Client
    failed: Callable[[], None]
    since: float = 0.0
    done: bool = False


class Server:
    """Runs until ``stop``; everything but the work of threads happens in the thread that called ``run``.

    An unforeseen error in one client's handling costs that client its connection, never the others theirs.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._epoll = select.epoll()
        self._clients: dict[int, tuple[Client, int, float]] = {}
        self._listeners: dict[int, tuple[socket.socket, Callable[[socket.socket], Client]]] = {}
        self._kept: set[int] = set()
        self._threads = Threads()
        self._wake = self._threads.wake
        self.submit_storage = self._threads.lane("storage", STORAGE_THREADS)
        """Like ``submit``, for work on shadow storage, which waits for no client's reads."""
        self.submit_look = self._threads.lane("look", 1)
        """Like ``submit``, for looks at how much room there is, which keep no work on shadow storage waiting."""
        self.random_reads = self._threads.random_reads
        self._epoll.register(self._wake, select.EPOLLIN)
        self._stopping = self._ended = False
        self._draining: Drain | None = None
        self._next_look = 0.0
        self.deadline: Callable[[], float | None] = lambda: None
        self.on_deadline: Callable[[], None] = lambda: None
        self.look: Callable[[], None] = lambda: None

    def serve_nbd(
        self, sock: socket.socket, tls: Tls = Tls.OFF, keys: ssl.SSLContext | None = None, keep: bool = False
    ) -> None:
        """Serve the directory's exports on a listening socket; ``keep`` its name when somebody else made it."""
        if keep:
            self._kept.add(sock.fileno())
        self.add_listener(
            sock, lambda client: Connection(client, self._directory, self.submit, tls, keys, self.random_reads)
        )

    def add_listener(self, sock: socket.socket, make: Callable[[socket.socket], Client]) -> None:
        """Serve another socket with clients of another kind."""
        self._listeners[sock.fileno()] = (sock, make)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def submit(self, work: Work, done: Done) -> None:
        """Run ``work`` in a thread, then ``done`` with its result or its exception in the loop."""
        self._threads.submit(work, done)

    def wake(self) -> None:
        """Have all clients looked at soon; may be called from any thread, also when all has ended."""
        if not self._ended:
            os.eventfd_write(self._wake, 1)

    def clients(self) -> list[Client]:
        """All that are connected."""
        return [client for client, _, _ in self._clients.values()]

    def connections(self) -> list[Connection]:
        """The NBD connections."""
        return [client for client, _, _ in self._clients.values() if isinstance(client, Connection)]

    def stop(self) -> None:
        """End ``run`` soon; may be called from a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def drain(self, drain: Drain) -> None:
        """Take nothing more; when all that is under way is answered, ``run`` returns and ``drain.done`` is set.

        Everything goes on as before when that takes too long or ``drain.client`` leaves. Errors: VSS_E_BAD_STATE.
        """
        if self._draining is not None:
            raise VssError(Code.VSS_E_BAD_STATE, "another process is taking over already")
        drain.since = time.monotonic()
        self._draining = drain
        for client, _, _ in self._clients.values():
            client.paused = True

    @property
    def drained(self) -> Drain | None:
        """After ``run``: the wish that was granted; None when the server was stopped."""
        return self._draining if self._draining is not None and self._draining.done else None

    def keeps(self, sock: socket.socket) -> bool:
        """Whether somebody else made the name of a listening socket."""
        return sock.fileno() in self._kept

    def leave(self, but: Client) -> tuple[list[Client], list[socket.socket]]:
        """After a drain: the clients except one, and the listening sockets in the order of adding, for who goes on."""
        self._threads.stop()
        self._ended = True
        self._threads.close()
        self._epoll.close()
        clients = [client for client, _, _ in self._clients.values() if client is not but and not client.closed]
        return clients, [sock for sock, _ in self._listeners.values()]

    def adopt(self, client: Client) -> None:
        """Go on with a client whose connection was another process's."""
        number = client.sock.fileno()
        self._clients[number] = (client, 0, time.monotonic())
        self._epoll.register(number, 0)
        client.resume()
        self._update(number)

    def run(self) -> None:
        """Serve until drained, or stopped; then close every client and listener."""
        try:
            while not self._stopping:
                self._turn()
        finally:
            if self.drained is None:
                self._end()

    def _end(self) -> None:
        try:
            self._threads.stop()
        finally:
            for client, _, _ in list(self._clients.values()):
                with contextlib.suppress(RuntimeError):  # there are no threads any more for what would have to wait
                    client.flush()
                client.close()
            for number, (sock, _) in self._listeners.items():
                path = sock.getsockname()
                sock.close()
                if number not in self._kept and isinstance(path, str) and os.path.exists(path):
                    os.unlink(path)
            self._ended = True
            self._epoll.close()
            self._threads.close()

    def _turn(self) -> None:
        """One look at everything. Only those who were served can have changed, unless something else happened."""
        changed: set[int] = set()
        others = False
        events = self._epoll.poll(self._timeout())
        if len(events) > 1:
            events.sort(key=self._is_nbd)
        for fd, mask in events:
            if fd == self._wake:
                os.eventfd_read(self._wake)
                others = True
            elif fd in self._listeners:
                self._accept(fd)
            else:
                changed.add(fd)
                others |= not self._serve(fd, mask)
        others |= self._threads.finish()
        others |= self._pass_time()
        if self._draining is not None:
            others |= self._drain(self._draining)
        elif others:
            self.look()
        for fd in list(self._clients) if others else changed:
            self._update(fd)

    def _drain(self, drain: Drain) -> bool:
        """Look whether all is answered; returns whether clients go on instead."""
        clients = [client for client, _, _ in self._clients.values()]
        if not self._threads.busy and all(client.idle for client in clients):
            drain.done = self._stopping = True
            return False
        if time.monotonic() < drain.since + DRAIN_SECONDS and not drain.client.closed:
            return False
        log.error("no other process takes over: requests were under way for %g s", DRAIN_SECONDS)
        self._draining = None
        for client in clients:
            client.paused = False
            if not client.closed:
                client.resume()
        drain.failed()
        return True

    def _is_nbd(self, event: tuple[int, int]) -> bool:
        """Control calls come first: a set of copies must not wait for the writes of one volume."""
        client = self._clients.get(event[0])
        return client is not None and isinstance(client[0], Connection)

    def _pass_time(self) -> bool:
        """What is due by now; returns whether there was anything, which is once a second at least."""
        now, deadline = time.monotonic(), self.deadline()
        passed = deadline is not None and now >= deadline
        if passed:
            self.on_deadline()
        if now >= self._next_look:
            self._next_look = now + TICK
            self._drop_silent(now)
            passed = True
        return passed

    def _timeout(self) -> float:
        deadline = self.deadline()
        most = SECONDS if self.random_reads.waiting else TICK
        return most if deadline is None else max(0.0, min(most, deadline - time.monotonic()))

    def _accept(self, fd: int) -> None:
        """Take all who are waiting, since the backlog is short."""
        listener, make = self._listeners[fd]
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if len(self._clients) >= MAX_CONNECTIONS:
                log.warning("a connection is refused: %d are open already", MAX_CONNECTIONS)
                sock.close()
                continue
            client, number = make(sock), sock.fileno()
            client.paused = self._draining is not None
            self._clients[number] = (client, 0, time.monotonic())
            self._epoll.register(number, 0)
            client.flush()
            self._update(number)

    def _serve(self, fd: int, mask: int) -> bool:
        """Let a client act; returns whether it can have changed nobody but itself."""
        client = self._clients[fd][0]
        try:
            self._dispatch(client, mask)
        except Exception:
            log.exception("a connection is closed because its request could not be handled")
            client.close()
        return isinstance(client, Connection)

    @staticmethod
    def _dispatch(client: Client, mask: int) -> None:
        if mask & select.EPOLLOUT:
            client.flush()
        if not client.closed and client.wants_read and mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            client.on_readable()
        elif mask & (select.EPOLLERR | select.EPOLLHUP):
            client.close()

    def _update(self, fd: int) -> None:
        """Wait for what the client can use now; forget it when it is closed."""
        client, before, since = self._clients[fd]
        if client.closed:
            del self._clients[fd]
            return
        mask = (select.EPOLLIN if client.wants_read else 0) | (select.EPOLLOUT if client.wants_write else 0)
        if mask != before:
            self._epoll.modify(fd, mask)
            self._clients[fd] = (client, mask, since)

    def _drop_silent(self, now: float) -> None:
        """A client that does not negotiate holds a place that others may need."""
        for client, _, since in self._clients.values():
            if since < now - NEGOTIATION_SECONDS and isinstance(client, Connection) and client.negotiating:
                client.close()
