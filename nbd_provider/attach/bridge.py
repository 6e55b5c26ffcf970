"""The bridge: plays the part of the kernel's nbd client where the kernel has none.

One thread takes FUSE requests for the file ``disk`` and passes them on as NBD requests, all under way together. When
the server goes away the bridge connects again and repeats what has no answer, so applications only wait; after the
dead time requests fail with EIO until a server is back. It ends when its mount is taken away, and on no signal: a
service manager that stops everything must not take the disk from under a mounted file system. When it is killed, its
keeper starts another one on the same mount, which repeats what the kernel has no answer to; a request may be done twice
then, as after a lost connection.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from shadowset.nbd_provider import protocol
from shadowset.nbd_provider.attach import bridge_state, client, fuse, keeper
from shadowset.nbd_provider.attach.bridge_state import Serving
from shadowset.nbd_provider.attach.disk import Disk
from shadowset.nbd_provider.attach.pipeline import Pipeline, Request
from shadowset.nbd_provider.attach.protect import protect
from shadowset.vss.codes import VssError

_BUFFERS = 32
_BUFFER_BYTES = fuse.BIGGEST_TRANSFER + 4096
_WRITE_HEAD = fuse.IN_HEADER.size + fuse.WRITE_IN.size
_BATCH = 64
_FIRST_BACKOFF_S = 0.02
_LONGEST_BACKOFF_S = 1.0
_RECONNECT_TIMEOUT_S = 2.0
_TICK_S = 1.0
_END_S = 10.0

log = logging.getLogger("shadowset.bridge")

Connector = Callable[[float], tuple[socket.socket, client.Export]]


class Bridge:
    """The event loop over one FUSE descriptor and one NBD connection.

    ``ready(export, resend)`` is called when the kernel has accepted the mount, and when the disk has grown. With
    ``known``, the export that another bridge has served, a server is waited for; without it one has to be there.
    ``look`` is called now and then, and when one of the descriptors of ``watched`` is readable. Errors: NbdError.
    """

    def __init__(
        self,
        connector: Connector,
        dead_time: float,
        ready: Callable[[client.Export, bool], None],
        known: Serving | None = None,
    ) -> None:
        self._fd = -1
        self._connector = connector
        self._dead_time = dead_time
        self._ready = ready
        self._resend = known is not None
        self.watched: Callable[[], list[int]] = list
        self.look: Callable[[], None] = lambda: None
        sock, self._export = (None, known.export) if known else connector(client.NEGOTIATION_TIMEOUT_S)
        self._disk = Disk(self._export.size, self._export.minimum_block, self._has_grown)
        self._pool = [memoryview(bytearray(_BUFFER_BYTES)) for _ in range(_BUFFERS)]
        self._pipeline = Pipeline(self._done)
        if sock is not None:
            self._pipeline.attach(sock)
        self._dead = False
        self._lost_at = self._next_try = time.monotonic()
        self._backoff = _FIRST_BACKOFF_S
        self._complaint = ""
        self._mounted = True
        self._handlers: dict[int, Callable[[int, memoryview, memoryview], bool]] = {
            fuse.READ: self._read,
            fuse.WRITE: self._write,
            fuse.FSYNC: self._fsync,
            fuse.FALLOCATE: self._fallocate,
        }

    def run(self, fd: int) -> None:
        """Serves the FUSE descriptor ``fd`` until its mount is gone."""
        self._fd = fd
        while self._mounted:
            self._watch()
            self.look()
            fuse_ready, nbd_events = self._poll()
            if fuse_ready:
                self._take()
            self._exchange(nbd_events)
        self._pipeline.lose()

    def _poll(self) -> tuple[bool, int]:
        """Waits; returns whether FUSE has requests, and the events of the NBD socket."""
        poller = select.poll()
        if self._pool:
            poller.register(self._fd, select.POLLIN)
        for descriptor in self.watched():
            poller.register(descriptor, select.POLLIN)
        sock = self._pipeline.sock
        if sock is not None:
            poller.register(sock, select.POLLIN | (select.POLLOUT if self._pipeline.wants_to_send else 0))
        events = dict(poller.poll(self._timeout_ms()))
        return self._fd in events, events.get(sock.fileno(), 0) if sock is not None else 0

    def _timeout_ms(self) -> int | None:
        if self._pipeline.sock is None:
            return max(1, round((self._next_try - time.monotonic()) * 1000))
        return round(_TICK_S * 1000) if self._pipeline.pending else None

    def _exchange(self, events: int) -> None:
        if self._pipeline.sock is None:
            return
        try:
            if events & ~select.POLLOUT:
                self._pipeline.receive()
            self._pipeline.send()
        except (OSError, client.NbdError) as error:
            self._lose(str(error), time.monotonic())

    def _watch(self) -> None:
        """What time brings: a new attempt to connect, a server that hangs, the end of the dead time."""
        now = time.monotonic()
        if self._pipeline.sock is None:
            if now >= self._next_try:
                self._reconnect()
        elif self._pipeline.pending:
            idle_since = max(self._pipeline.progress, self._pipeline.oldest())
            if now - idle_since > self._dead_time:
                self._lose(f"the server has answered nothing for {self._dead_time:g} s", idle_since)
        if self._pipeline.sock is None and not self._dead and time.monotonic() - self._lost_at > self._dead_time:
            log.error("no server for %g s: %d requests fail now", self._dead_time, len(self._pipeline.pending))
            self._dead = True
            self._pipeline.fail_all(errno.EIO)

    def _lose(self, reason: str, since: float) -> None:
        log.warning("connection lost with %d requests under way: %s", len(self._pipeline.pending), reason)
        self._pipeline.lose()
        self._lost_at = since
        self._backoff = _FIRST_BACKOFF_S
        self._next_try = time.monotonic()

    def _reconnect(self) -> None:
        try:
            sock, export = self._connector(_RECONNECT_TIMEOUT_S)
            if not _same_disk(export, self._export):
                sock.close()
                raise client.NbdError(f"the export is not the same any more: {export} instead of {self._export}")
        except client.NbdError as error:
            if error.message != self._complaint:
                log.info("%s", error.message)
            self._complaint = error.message
            self._next_try = time.monotonic() + self._backoff
            self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF_S)
            return
        log.warning("connected again after %.3f s", time.monotonic() - self._lost_at)
        self._dead = False
        self._export = export
        self._pipeline.attach(sock)

    def _has_grown(self, size: int) -> bool:
        """Whether the export has this size now. Asked over a connection of its own, for NBD tells a size only once."""
        try:
            sock, export = self._connector(_RECONNECT_TIMEOUT_S)
        except client.NbdError as error:
            log.warning("the disk does not grow to %d bytes: %s", size, error.message)
            return False
        sock.close()
        if export.size != size or not _same_disk(export, self._export):
            log.warning("the disk does not grow to %d bytes: the server offers %s", size, export)
            return False
        log.info("the disk grows from %d to %d bytes", self._disk.size, size)
        self._export = export
        self._ready(export, self._resend)
        return True

    def _take(self) -> None:
        """Takes what the kernel has for us, a batch at most and no more than there are buffers for."""
        for _ in range(_BATCH):
            if not self._pool:
                return
            buffer = self._pool.pop()
            kept = False
            try:
                length = os.readv(self._fd, [buffer])
                kept = self._dispatch(buffer, length)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENODEV:
                    self._mounted = False
                    return
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    raise
            finally:
                if not kept:
                    self._pool.append(buffer)

    def _dispatch(self, buffer: memoryview, length: int) -> bool:
        """Serves one request. True when ``buffer`` stays in use until the answer."""
        _length, opcode, unique, node, _uid, _gid, _pid, _extension, _padding = fuse.IN_HEADER.unpack_from(buffer)
        if opcode in (fuse.FORGET, fuse.BATCH_FORGET):
            return False
        body = buffer[fuse.IN_HEADER.size : length]
        handler = self._handlers.get(opcode)
        if handler is None:
            self._answer(opcode, unique, node, body)
            return False
        if self._dead:
            self._reply(unique, errno.EIO)
            return False
        return handler(unique, body, buffer)

    def _answer(self, opcode: int, unique: int, node: int, body: memoryview) -> None:
        try:
            answer = self._disk.answer(opcode, node, body)
        except OSError as error:
            self._reply(unique, error.errno or errno.EIO)
            return
        if opcode == fuse.INIT:
            self._resend = fuse.offers_resend(bytes(body))
        self._reply(unique, 0, answer)
        if opcode == fuse.INIT:
            self._ready(self._export, self._resend)

    def _read(self, unique: int, body: memoryview, _buffer: memoryview) -> bool:
        _handle, offset, size = fuse.READ_IN.unpack_from(body)
        length = self._disk.clamp(offset, size)
        if length:
            self._pipeline.submit(Request(unique, protocol.CMD_READ, offset, length))
        else:
            self._reply(unique, 0)
        return False

    def _write(self, unique: int, body: memoryview, buffer: memoryview) -> bool:
        _handle, offset, size, *_rest = fuse.WRITE_IN.unpack_from(body)
        if self._disk.clamp(offset, size) < size:
            self._reply(unique, errno.ENOSPC)
            return False
        data = buffer[_WRITE_HEAD : _WRITE_HEAD + size]
        self._pipeline.submit(Request(unique, protocol.CMD_WRITE, offset, size, data=data, buffer=buffer))
        return True

    def _fsync(self, unique: int, _body: memoryview, _buffer: memoryview) -> bool:
        if self._export.can(protocol.FLAG_SEND_FLUSH):
            self._pipeline.submit(Request(unique, protocol.CMD_FLUSH))
        else:
            self._reply(unique, 0)
        return False

    def _fallocate(self, unique: int, body: memoryview, _buffer: memoryview) -> bool:
        """The loop driver sends discards and zeroes alike as a hole that must read as zeroes, which NBD's TRIM need
        not; WRITE_ZEROES does, and without NO_HOLE it frees the space as well."""
        _handle, offset, size, mode = fuse.FALLOCATE_IN.unpack_from(body)
        wanted = mode & (fuse.FALLOC_PUNCH_HOLE | fuse.FALLOC_ZERO_RANGE)
        if not wanted or not self._export.can(protocol.FLAG_SEND_WRITE_ZEROES):
            self._reply(unique, errno.EOPNOTSUPP)
            return False
        flags = protocol.CMD_FLAG_NO_HOLE if wanted == fuse.FALLOC_ZERO_RANGE else 0
        length = self._disk.clamp(offset, size)
        if length:
            self._pipeline.submit(Request(unique, protocol.CMD_WRITE_ZEROES, offset, length, flags))
        else:
            self._reply(unique, 0)
        return False

    def _done(self, request: Request, error: int, data: memoryview | None) -> None:
        if error or request.command not in (protocol.CMD_READ, protocol.CMD_WRITE):
            self._reply(request.unique, error)
        elif request.command == protocol.CMD_WRITE:
            self._reply(request.unique, 0, fuse.WRITE_OUT.pack(request.length, 0))
        else:
            self._reply(request.unique, 0, data or b"")
        if request.buffer is not None:
            self._pool.append(request.buffer)

    def _reply(self, unique: int, error: int, data: bytes | memoryview = b"") -> None:
        head = fuse.OUT_HEADER.pack(fuse.OUT_HEADER.size + len(data), -error, unique)
        try:
            os.writev(self._fd, [head, data])
        except OSError as problem:
            # The kernel has given this request up (ENOENT) or the mount is gone: nobody waits for the answer.
            if problem.errno not in (errno.ENOENT, errno.ENODEV):
                log.error("the kernel refused the answer to request %d: %s", unique, problem)


def _same_disk(one: client.Export, other: client.Export) -> bool:
    """``one`` can stand in for ``other``: it may have grown; the file keeps its size until it is told."""
    return (
        one.size >= other.size
        and one.sector_size == other.sector_size
        and one.can(protocol.FLAG_READ_ONLY) == other.can(protocol.FLAG_READ_ONLY)
    )


def check(export: client.Export, name: str) -> None:
    """Refuses an export that cannot stand under a loop device. Errors: NbdError."""
    if export.maximum_payload < fuse.BIGGEST_TRANSFER:
        raise client.NbdError(f'the export "{name}" takes {export.maximum_payload} bytes at once, but 1 MiB is needed')
    if not 512 <= export.sector_size <= 4096 or export.size % export.sector_size or not export.size:
        unit = f"{export.size} bytes in blocks of {export.sector_size}"
        raise client.NbdError(f'the export "{name}" cannot be a block device: it has {unit}')


def _announce(message: dict[str, object]) -> None:
    """One JSON line for the process that started us; our copy of the pipe is closed with it."""
    print(json.dumps(message), flush=True)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _serve(arguments: argparse.Namespace) -> None:
    def connector(timeout: float) -> tuple[socket.socket, client.Export]:
        sock, export = client.connect(arguments.nbd, arguments.export, timeout)
        try:
            check(export, arguments.export)
        except BaseException:
            sock.close()
            raise
        return sock, export

    def ready(export: client.Export, resend: bool) -> None:
        read_only = export.can(protocol.FLAG_READ_ONLY)
        first = bridge_state.load_serving(arguments.directory) is None
        bridge_state.save_serving(arguments.directory, bridge_state.serving(export, resend))
        if first:
            _announce({"size": export.size, "sector_size": export.sector_size, "read_only": read_only})

    known = bridge_state.load_serving(arguments.directory) if arguments.resume or arguments.replaces else None
    bridge = Bridge(connector, arguments.dead_time, ready, known)
    Companion(arguments).join(bridge)
    for refusal in protect(arguments.group):
        log.info("without protection by %s", refusal)
    gc.freeze()
    log.info("serving %s of %s at %s", arguments.export, arguments.nbd, arguments.mount)
    if known is not None:
        _go_on(arguments, known)
    bridge.run(arguments.fd)
    log.info("the mount is gone: good bye")


def _go_on(arguments: argparse.Namespace, known: Serving) -> None:
    """In place of a bridge that has died, or that has to now. Errors: OSError."""
    begun = time.monotonic()
    if arguments.replaces:
        _end(arguments.replaces)
    fuse.resend(arguments.fd)
    stall = (time.monotonic() - begun) * 1000 if arguments.replaces else 0.0
    bridge_state.save_serving(arguments.directory, bridge_state.serving(known.export, known.resend, stall))


def _end(pid: int) -> None:
    try:
        watch = os.pidfd_open(pid)
        signal.pidfd_send_signal(watch, signal.SIGKILL)
    except ProcessLookupError:
        return
    select.select([watch], [], [], _END_S)
    os.close(watch)


class Companion:
    """The keeper, which is started again when it has died."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._child: subprocess.Popen[bytes] | None = None
        self._next_look = 0.0
        self._watch = self._open(arguments.keeper)

    def join(self, bridge: Bridge) -> None:
        """Let the bridge's loop look after it."""
        bridge.watched = lambda: [self._watch] if self._watch >= 0 else []
        bridge.look = self._look

    @staticmethod
    def _open(pid: int) -> int:
        try:
            return os.pidfd_open(pid)
        except ProcessLookupError:
            return -1

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look or (self._watch >= 0 and not select.select([self._watch], [], [], 0)[0]):
            return
        if self._watch >= 0:
            os.close(self._watch)
        if self._child is not None:
            self._child.poll()
        self._next_look = now + _LONGEST_BACKOFF_S
        self._child = keeper.start(self._arguments, self._arguments.fd)
        self._watch = self._open(self._child.pid)
        log.warning("the keeper has died; process %d keeps the mount now", self._child.pid)


def main(argv: list[str] | None = None) -> int:
    """Runs the bridge in the foreground; exits 0 after the mount was taken away, 1 when it could not start."""
    parser = argparse.ArgumentParser(prog="shadowset-bridge")
    keeper.add_common(parser)
    parser.add_argument("--keeper", type=int, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--replaces", type=int, default=0)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(arguments.fd, False)
    try:
        _serve(arguments)
    except VssError as error:
        _announce({"error": error.message})
        return 1
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
