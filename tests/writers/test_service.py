"""Stopping a server: it has ended when its process has, not when it lets go of its lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowset.vss.codes import Code, VssError
from shadowset.writers.service import make_way

# takes its lock (a file) away at once when told to stop, and its last file half a second later
SERVER = """
import os, pathlib, signal, sys, time
home = pathlib.Path(sys.argv[1])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
(home / "last").touch()
(home / "lock").touch()
signal.sigwait([signal.SIGTERM])
(home / "lock").unlink()
time.sleep(0.5)
(home / "last").unlink()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)]) as process:
        try:
            while not (tmp_path / "lock").exists():
                assert process.poll() is None
            yield process
        finally:
            process.kill()


def test_a_server_is_gone_when_its_process_is(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    def locked() -> int:
        return server.pid if (tmp_path / "lock").exists() else 0

    make_way("data", locked, ["kill", str(server.pid)], 60, lambda: False)
    assert not (tmp_path / "last").exists()


def test_a_process_that_cannot_be_seen_is_judged_by_its_lock(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    make_way("data", lambda: -(tmp_path / "lock").exists(), ["kill", str(server.pid)], 60, lambda: False)
    assert not (tmp_path / "lock").exists()


def test_a_server_that_runs_on_is_named(server: subprocess.Popen[bytes]) -> None:
    with pytest.raises(VssError, match="still runs after its stop_command") as caught:
        make_way("data", lambda: server.pid, ["true"], 0.3, lambda: False)
    assert caught.value.code == Code.VSS_E_WRITERERROR_RETRYABLE
