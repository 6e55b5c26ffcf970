"""Under socket activation the daemon ends by itself when nobody needs it, and the next client starts it again."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss.enums import Context

pytestmark = pytest.mark.host

START = """
import os, sys
for at, descriptor in enumerate(map(int, sys.argv[1:3])):
    os.dup2(descriptor, 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
os.execv(sys.executable, [sys.executable, "-m", "shadowset.daemon.main", *sys.argv[3:]])
"""


class Manager:
    """Listens as the service manager does, and starts the daemon."""

    def __init__(self, host: Any) -> None:
        self.host = host
        os.makedirs(host.paths.runtime)
        self.sockets = []
        for path in (host.paths.requester_socket, host.paths.writer_socket):
            made = socket.socket(socket.AF_UNIX)
            made.bind(path)
            made.listen()
            self.sockets.append(made)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        numbers = [str(each.fileno()) for each in self.sockets]
        with open(self.host.log, "ab") as log:
            command = [sys.executable, "-c", START, *numbers, *options]
            fds = [each.fileno() for each in self.sockets]
            self.host.process = subprocess.Popen(command, env=self.host.environment(), stderr=log, pass_fds=fds)
        return self.host.process  # type: ignore[no-any-return]


@pytest.fixture
def manager(host: Any) -> Iterator[Manager]:
    made = Manager(host)
    yield made
    for each in made.sockets:
        each.close()


def alive_for(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is None


@pytest.mark.vss(24)
def test_it_ends_when_nobody_needs_it_and_not_before(host: Any, manager: Manager) -> None:
    daemon = manager.start("--limit", "exit_idle_ms=300")
    requester = host.requester()
    assert alive_for(daemon, 1.5), host.log.read_text()
    writer = host.writer()
    requester.close()
    assert alive_for(daemon, 1.5), "a writer is connected"
    requester = host.requester()
    writer.close()
    requester.call(rp.VolumeAdd, "one", host.image("one"), host.storage("one"))
    host.loops.append(requester.call(rp.VolumeAttach, "one").device)
    requester.close()
    assert alive_for(daemon, 1.5), "a volume is attached"
    requester = host.requester()
    requester.call(rp.InitializeForBackup)
    requester.call(rp.SetContext, Context.NAS_ROLLBACK)
    requester.call(rp.StartSnapshotSet, volumes=["one"])
    requester.call(rp.AddToSnapshotSet, "one")
    requester.call(rp.DoSnapshotSet)
    requester.call(rp.VolumeDetach, "one")
    assert alive_for(daemon, 1.5), "a session is open"
    requester.close()
    assert daemon.wait(60) == 0, host.log.read_text()
    assert all(os.path.exists(path) for path in (host.paths.requester_socket, host.paths.writer_socket))
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(host.paths.requester_socket)  # while nobody is there
    waiting.close()
    manager.start()
    assert len(host.requester().call(rp.Query)) == 1, "the next one knows what there was"


def test_without_being_asked_to_it_stays(host: Any, manager: Manager) -> None:
    daemon = manager.start()
    host.requester().close()
    assert alive_for(daemon, 1.5)
    host.stop()
    os.unlink(host.paths.requester_socket)  # nobody listens there any more
    host.start("--limit", "exit_idle_ms=100")
    assert alive_for(host.process, 1.5), "nobody would start it again"
