"""A listening socket passed by systemd (LISTEN_FDS) is served, by the provider and by the exporter."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from shadowset.vss import provider_protocol as m


def passing(sockets: list[socket.socket], *command: str) -> subprocess.Popen[str]:
    """Start a command as systemd does: sockets from descriptor 3 on, and the environment that says so."""
    script = f'LISTEN_PID=$$ LISTEN_FDS={len(sockets)} exec "$@"'
    copies = [fcntl.fcntl(sock, fcntl.F_DUPFD, 100) for sock in sockets]
    script += "".join(f" {3 + index}<&{number}" for index, number in enumerate(copies))
    try:
        return subprocess.Popen(
            ["bash", "-c", script, "sh", sys.executable, "-m", *command],
            pass_fds=copies,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        for number in copies:
            os.close(number)


@pytest.fixture
def listener(workdir: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{workdir}/passed.sock")
        sock.listen(8)
        yield sock


def provider_command(provider: Any) -> list[str]:
    command = ["shadowset.nbd_provider.main", "vol", "--origin", provider.origin, "--storage", provider.storage]
    return [*command, "--control", provider.control_socket, "--losses", f"{provider.directory}/losses"]


def test_provider_serves_the_passed_socket(workdir: str, provider_class: Any, nbd_module: Any, listener: Any) -> None:
    """Clients may connect before it runs; the socket stays when it ends, and the next one goes on."""
    made = provider_class(workdir)
    for text in (b"first", b"second"):
        client = nbd_module.NBD()
        process = passing([listener], *provider_command(made))
        client.connect_unix(f"{workdir}/passed.sock")
        client.pwrite(text, 0)
        assert client.pread(len(text), 0) == text
        client.shutdown()
        assert made.control().value(m.Describe)["nbd_socket"] == f"{workdir}/passed.sock"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()
        assert os.path.exists(f"{workdir}/passed.sock")


def test_libnbd_activates_the_exporter(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    provider.control().snapshot()
    client = nbd_module.NBD()
    command = [sys.executable, "-m", "shadowset.nbd_provider.export"]
    client.connect_systemd_socket_activation(
        [*command, "--storage", provider.storage, "--origin", provider.origin, "--log-level", "error"]
    )
    assert client.pread(4096, 0) == random_image[:4096]
    client.shutdown()


def test_what_cannot_be_served(workdir: str, provider_class: Any, listener: Any) -> None:
    made = provider_class(workdir)
    with socket.create_server(("127.0.0.1", 0)) as network, socket.socket(socket.AF_UNIX) as idle:
        cases = [
            ([listener], ["--nbd", f"{workdir}/n"], "not both"),
            ([], [], "give either --nbd SOCKET"),
            ([listener, network], [], "2 sockets were passed"),
            ([network], [], "not served over a network"),
            ([idle], [], "no listening stream socket"),
        ]
        for sockets, options, words in cases:
            process = passing(sockets, *provider_command(made), *options)
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 1 and words in errors and "Traceback" not in errors
    assert not os.path.exists(made.storage)
