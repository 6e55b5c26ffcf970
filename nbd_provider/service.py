"""A provider's life: it opens the volume or takes it over, serves, and closes it or hands it over."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import threading
import time

from shadowset.nbd_provider import handover
from shadowset.nbd_provider.connection import Connection
from shadowset.nbd_provider.control import ControlClient
from shadowset.nbd_provider.handover_state import VolumeState
from shadowset.nbd_provider.host_end import host_ends, let_go
from shadowset.nbd_provider.listening import listen_unix, passed_socket
from shadowset.nbd_provider.live_export import LiveDirectory
from shadowset.nbd_provider.places import require_storage
from shadowset.nbd_provider.server import Client, Drain, Server
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)


def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM, SIGINT, a stop call or a handover. Errors: VssError before anything is served."""
    service = Service(options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.asked_to_end())
    service.run()


class Service:
    """One volume with its server. After a handover that fails, both are made anew and nobody notices."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._stopped = self._letting_go = False
        self.server: Server | None = None

    def stop(self) -> None:
        """End soon; may be called from a signal handler."""
        self._stopped = True
        if self.server is not None:
            self.server.stop()

    def asked_to_end(self) -> None:
        """A signal came. When the host ends, what is mounted from the device is unmounted first."""
        if not host_ends():
            self.stop()
        elif not self._letting_go:
            self._letting_go = True
            threading.Thread(target=self._let_go, name="host-end", daemon=True).start()

    def _let_go(self) -> None:
        let_go(self._options)
        self.stop()

    def run(self) -> None:
        """Errors: VssError, OSError."""
        volume: Volume | None = self._take_over() if self._options.take_over else self._open()
        while volume is not None:
            volume = self._serve(volume)

    def _serve(self, volume: Volume) -> Volume | None:
        """Until the end, or until the volume was opened anew after a handover that came to nothing."""
        server = self.server
        assert server is not None
        try:
            log.info("volume %s: %d bytes of %s are served", volume.name, volume.origin.size, volume.origin.path)
            if self._stopped:
                server.stop()
            server.run()
        except BaseException:
            volume.close()
            raise
        drain = server.drained
        if drain is None:
            volume.close()
            return None
        return self._hand_over(volume, server, drain)

    # ---- a beginning of its own ----

    def _open(self) -> Volume:
        options = self._options
        passed = nbd_socket(options.nbd)
        if options.existing:
            require_storage(options.storage)
        volume = self._volume()
        try:
            nbd = passed or listen_unix(options.nbd)
            self._make_server(volume, nbd, passed is not None, listen_unix(options.control))
        except BaseException:
            volume.close()
            raise
        return volume

    def _volume(self, kept: handover.Kept | None = None) -> Volume:
        options = self._options
        new = options.chunk_size, options.losses, kept, options.max_copies
        return Volume(options.name, options.origin, options.storage, *new)

    def _make_server(self, volume: Volume, nbd: socket.socket, keep: bool, control: socket.socket) -> LiveDirectory:
        options = self._options
        volume.configure(options.max_size, options.policy, options.warn_at)
        directory = LiveDirectory(volume)
        server = self.server = Server(directory)
        volume.nbd_socket = nbd.getsockname()
        server.serve_nbd(nbd, keep=keep)
        server.add_listener(control, lambda sock: ControlClient(sock, volume, server))
        connect_gate(server, volume)
        return directory

    # ---- from another process ----

    def _take_over(self) -> Volume:
        sock, state, descriptors = handover.take(self._options.control)
        if state.name != self._options.name:
            message = f"{self._options.control} belongs to volume {state.name}; give the name and paths of one volume"
            raise VssError(Code.E_INVALIDARG, message)
        volume = self._restore(state, descriptors)
        handover.begin(sock)
        self._resume(volume, state)
        return volume

    def _restore(self, state: VolumeState, descriptors: list[int]) -> Volume:
        """Volume, server and clients, as they were; nothing is answered yet. Errors: VssError, OSError."""
        volume = self._volume(handover.Kept(descriptors[0], descriptors[1], state.next_slot))
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors[2:]]
        directory = self._make_server(volume, sockets[0], state.keep_name, sockets[1])
        assert self.server is not None
        volume.inherit(state.events)
        clients: list[Client] = []
        numbers = iter(sockets[2:])
        for connection in state.connections:
            clients.append(
                Connection.restored(next(numbers), connection, directory, self.server.submit, self.server.random_reads)
            )
        for control in state.controls:
            clients.append(ControlClient.restored(next(numbers), control, volume, self.server))
        self._clients = clients
        return volume

    def _resume(self, volume: Volume, state: VolumeState) -> None:
        assert self.server is not None
        for client in self._clients:
            self.server.adopt(client)
        volume.stall_ms = round((time.monotonic() - state.since) * 1000, 3)
        count = len(state.connections)
        log.info("volume %s was taken over with %d clients in %.1f ms", volume.name, count, volume.stall_ms)
        self._clients = []

    # ---- to another process ----

    def _hand_over(self, volume: Volume, server: Server, drain: Drain) -> Volume | None:
        """None when another process serves from now on, else the volume, opened anew with the same clients."""
        clients, listeners = server.leave(drain.client)
        volume.store.writeback.look()
        state, sockets = describe(volume, clients, server.keeps(listeners[0]), drain.since)
        kept = volume.let_go()
        descriptors = [kept.origin, kept.lock, *(sock.fileno() for sock in (*listeners, *sockets))]
        if handover.give(drain.client.sock, state, descriptors):
            log.info("volume %s: another process goes on", volume.name)
            return None
        drain.client.sock.close()
        copies = [kept.origin, kept.lock, *(sock.detach() for sock in (*listeners, *sockets))]
        volume = self._restore(state, copies)
        self._resume(volume, state)
        return volume


def describe(
    volume: Volume, clients: list[Client], keep: bool, since: float
) -> tuple[VolumeState, list[socket.socket]]:
    """What the next process must know, and the clients' sockets in its order. A client that cannot be described loses
    its connection."""
    state = VolumeState(volume.name, since, volume.store.next_slot, keep, [], [], volume.unheard())
    nbd: list[socket.socket] = []
    control: list[socket.socket] = []
    for client in clients:
        try:
            if isinstance(client, Connection):
                state.connections.append(client.state())
                nbd.append(client.sock)
            elif isinstance(client, ControlClient):
                state.controls.append(client.state())
                control.append(client.sock)
        except OSError as error:
            log.error("a client is disconnected amid a reply: %s", error)
            client.close()
    return state, [*nbd, *control]


def nbd_socket(path: str | None) -> socket.socket | None:
    """The Unix socket that systemd passed, or None when ``path`` is to be made. Errors: E_INVALIDARG."""
    passed = passed_socket()
    if (passed is None) == (path is None):
        message = "give either --nbd SOCKET or one socket from systemd for NBD, and not both"
        raise VssError(Code.E_INVALIDARG, message)
    if passed is not None and passed.family != socket.AF_UNIX:
        message = "the socket from systemd is no Unix socket; the live volume is not served over a network"
        raise VssError(Code.E_INVALIDARG, message)
    return passed


def connect_gate(server: Server, volume: Volume) -> None:
    """Let the loop watch the gate's deadline, wake held requests when it opens, and find threads for the storage."""
    gate = volume.gate
    server.deadline = lambda: gate.deadline if gate.closed else None
    server.on_deadline = gate.expire

    def release_held() -> None:
        for connection in server.connections():
            try:
                connection.release_held()
            except Exception:
                log.exception("a connection is closed because its held requests could not be handled")
                connection.close()

    gate.opened.append(release_held)

    volume.copies.submit = volume.calls.submit = server.submit_storage

    seen = 0

    def look() -> None:
        nonlocal seen
        volume.look_for_late_errors()
        volume.calls.look()
        if volume.store.room.count > seen:
            seen = volume.store.room.count
            for client in server.clients():
                if isinstance(client, ControlClient) and not client.closed and not client.paused:
                    client.tell(seen)

    server.look, volume.store.room.on_event = look, server.wake
    volume.clients = lambda: sum(not each.negotiating and not each.closed for each in server.connections())
