"""Unix sockets: listening, peer identity, and framed connections that can harm nobody but themselves."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shadowset.vss.codes import Code, VssError
from shadowset.vss.wire import FrameDecoder, FrameError, Message, encode

GROUP = "shadowset"
SO_PEERGROUPS = 59
MAX_UNSENT = 64 * 1024 * 1024
MAX_CONNECTIONS = 256
READ_BYTES = 256 * 1024

log = logging.getLogger(__name__)
M = TypeVar("M")


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    groups: frozenset[int]
    executable: str

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """From SO_PEERCRED and SO_PEERGROUPS."""
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, gid = struct.unpack("iII", packed)
        members = _supplementary(connection, pid)
        try:
            executable = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            executable = ""
        return cls(pid, uid, frozenset((gid, *members)), executable)


def _supplementary(connection: socket.socket, pid: int) -> tuple[int, ...]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
        return struct.unpack(f"{len(packed) // 4}I", packed)
    except OSError:
        pass  # more groups than Python's buffer holds
    try:
        with open(f"/proc/{pid}/status") as file:
            line = next(line for line in file if line.startswith("Groups:"))
    except (OSError, StopIteration):
        return ()
    return tuple(map(int, line.split()[1:]))


def service_group() -> int | None:
    """The number of the group ``shadowset``, where it exists."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


class Connection(Generic[M]):
    """Messages of one union of kinds over one accepted socket."""

    def __init__(self, kinds: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        self.peer = peer
        self._decoder: FrameDecoder[M] = FrameDecoder(kinds)
        self._reader = reader
        self._writer = writer
        self._ready: list[M] = []

    async def receive(self) -> M | None:
        """The next message; None when the peer has closed or broken the connection. Errors: FrameError."""
        while not self._ready:
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError:
                return None
            if not data:
                return None
            self._ready = self._decoder.feed(data)
        return self._ready.pop(0)

    def send(self, message: Message) -> None:
        """Send; a peer that leaves too much unread loses its connection."""
        if self._writer.is_closing():
            return
        self._writer.write(encode(message))
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            log.warning("process %d does not read its answers; its connection is closed", self.peer.pid)
            self._writer.transport.abort()

    async def close(self) -> None:
        """Send what is waiting, for a second at the most, and close."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), 1)
        except (OSError, TimeoutError):
            self._writer.transport.abort()


class Listener(Generic[M]):
    """A listening socket; each client is served by ``serve`` in a task of its own."""

    def __init__(
        self,
        path: str,
        kinds: Any,
        serve: Callable[[Connection[M]], Awaitable[None]],
        refuse: Callable[[int, str], Message],
        for_all: bool = False,
        inherited: socket.socket | None = None,
    ) -> None:
        """``for_all``: everybody may connect, and ``serve`` judges who is served; else root and the service's group.

        An ``inherited`` socket listens already, and its path stays when we stop.
        """
        self._inherited = inherited
        self._mode = 0o666 if for_all else 0o660
        self._path = path
        self._kinds = kinds
        self._serve = serve
        self._refuse = refuse
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody is connected."""
        return not self._clients

    async def start(self) -> None:
        """Listen. Errors: VssError when the path cannot be used."""
        if self._inherited:
            self._server = await asyncio.start_unix_server(self._accepted, sock=self._inherited)
            return
        if len(os.fsencode(self._path)) > 107:
            raise VssError(
                Code.E_INVALIDARG, f"the socket path {self._path} is longer than the 107 bytes of a Unix socket"
            )
        try:
            if os.path.lexists(self._path) and stat.S_ISSOCK(os.lstat(self._path).st_mode):
                os.unlink(self._path)
            before = os.umask(0o777 & ~self._mode)
            try:
                self._server = await asyncio.start_unix_server(self._accepted, self._path)
            finally:
                os.umask(before)
            group = service_group()
            if group is not None:
                os.chown(self._path, -1, group)
        except OSError as error:
            raise VssError(Code.E_ACCESSDENIED, f"cannot listen on {self._path}: {error.strerror}") from None

    async def stop(self) -> None:
        """Close the socket and end all clients."""
        if self._server:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._inherited:
            return
        try:
            os.unlink(self._path)
        except OSError:
            pass

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._client(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = Peer.of(writer.get_extra_info("socket"))
        except OSError as error:
            log.warning("a client whose identity is unknown was turned away: %s", error)
            writer.transport.abort()
            return
        connection: Connection[M] = Connection(self._kinds, reader, writer, peer)
        try:
            if len(self._clients) > MAX_CONNECTIONS:
                raise VssError(
                    Code.VSS_E_WRITER_STATUS_NOT_AVAILABLE, f"more than {MAX_CONNECTIONS} clients are connected"
                )
            await self._serve(connection)
        except (FrameError, VssError) as error:
            log.warning("process %d (uid %d): %s", peer.pid, peer.uid, error)
            connection.send(self._refuse(error.code, error.message))
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("serving process %d failed", peer.pid)
            connection.send(self._refuse(Code.VSS_E_UNEXPECTED, "an internal error; the coordinator's log has it"))
        finally:
            await connection.close()
