"""Between the coordinator and a provider: passes every call on, and keeps the answer to ``hold`` back when told to."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shadowset.vss import provider_protocol as m
from shadowset.vss.wire import FrameDecoder


class SlowControl:
    """Takes the place of a control socket; the real one goes on under another name."""

    def __init__(self, path: str) -> None:
        self._real = f"{path}.real"
        os.rename(path, self._real)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self.armed = False
        self.held = threading.Event()
        self.leave = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self) -> None:
        """Keep back the answer to the next hold until ``leave`` is set."""
        self.held.clear()
        self.leave.clear()
        self.armed = True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._real)
            for source, target, calls in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass_on, args=(source, target, calls), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, calls: bool) -> None:
        decoder: FrameDecoder[m.ToProvider] = FrameDecoder(m.ToProvider)
        try:
            while data := source.recv(65536):
                if calls and any(isinstance(call, m.Hold) for call in decoder.feed(data)) and self.armed:
                    self.armed = False
                    self.held.set()
                elif not calls and self.held.is_set() and not self.leave.is_set():
                    self.leave.wait(20)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for sock in (source, target):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self) -> None:
        """Give the socket back."""
        self._listener.close()
        self.leave.set()


@contextmanager
def slowly_reached(chain: Any, volume: str) -> Iterator[SlowControl]:
    """The coordinator, started again, reaches the provider of a volume through a ``SlowControl``."""
    chain.daemon.terminate()
    chain.daemon.wait(20)
    made = SlowControl(chain.paths.control_socket(volume))
    try:
        chain.start_daemon()
        yield made
    finally:
        made.leave.set()
