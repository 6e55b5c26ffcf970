"""Shadow copies over TCP: encrypted by default, certificates of both sides checked, no way around."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.listening import is_loopback, listen_tcp
from shadowset.nbd_provider.tls import certificate_context, read_keys
from shadowset.vss.codes import VssError

DIRECTORIES = ("server", "client", "stranger", "anonymous")


@pytest.fixture
def keys(workdir: str, tools: Any, certificates: Any) -> str:
    """Directories ``server``, ``client``, ``stranger`` (of another authority) and ``anonymous`` with their keys."""
    tools("openssl")
    place = f"{workdir}/keys"
    for name in ("", *DIRECTORIES):
        os.mkdir(f"{place}/{name}")
    for name in ("ca", "other"):
        certificates.authority(place, name)
    certificates.issue(place, "ca", "server", "serverAuth")
    certificates.issue(place, "ca", "client", "clientAuth")
    certificates.issue(place, "other", "stranger", "clientAuth")
    authority_text = Path(f"{place}/ca-cert.pem").read_text()
    for name in DIRECTORIES:
        Path(f"{place}/{name}/ca-cert.pem").write_text(authority_text)
    for source, target in (("server", "server/server"), ("client", "client/client"), ("stranger", "stranger/client")):
        for kind in ("cert", "key"):
            Path(f"{place}/{target}-{kind}.pem").write_text(Path(f"{place}/{source}-{kind}.pem").read_text())
    return place


@pytest.fixture
def serve(provider: Any, random_image: bytes) -> Iterator[Callable[..., int]]:
    """Start ``shadowset-export`` with options on a free port of the loopback interface; gives the port."""
    processes = []
    provider.control().snapshot()

    def start(*options: str) -> int:
        log = f"{provider.directory}/tcp.log"
        with open(log, "wb") as file:
            processes.append(subprocess.Popen([*command(provider), "--listen", "127.0.0.1:0", *options], stderr=file))
        deadline = time.monotonic() + 20
        while not (found := re.search(r"served on 127\.0\.0\.1:(\d+)", Path(log).read_text())):
            assert processes[-1].poll() is None and time.monotonic() < deadline, Path(log).read_text()
            time.sleep(0.02)
        return int(found[1])

    yield start
    for process in processes:
        process.terminate()
        assert process.wait(20) == 0
    if processes:
        assert "Traceback" not in Path(f"{provider.directory}/tcp.log").read_text()


def command(provider: Any) -> list[str]:
    start = [sys.executable, "-m", "shadowset.nbd_provider.export"]
    return [*start, "--storage", provider.storage, "--origin", provider.origin]


def connect(nbd_module: Any, port: int, keys: str = "", tls: bool = True) -> Any:
    client = nbd_module.NBD()
    if tls:
        client.set_tls(nbd_module.TLS_REQUIRE)
        client.set_tls_certificates(keys)
        client.set_tls_verify_peer(True)
    client.connect_tcp("localhost", str(port))
    return client


def test_copies_over_tls(
    keys: str, serve: Callable[..., int], nbd_module: Any, random_image: bytes, workdir: str, tools: Any
) -> None:
    port = serve("--tls-certificates", f"{keys}/server")
    client = connect(nbd_module, port, f"{keys}/client")
    assert client.get_tls_negotiated() and client.is_read_only()
    size = 8 << 20
    assert client.pread(size, 4096) == random_image[4096 : 4096 + size]
    buffers = [(nbd_module.Buffer(65536), offset) for offset in range(0, 4 << 20, 65536)]
    for buffer, offset in buffers:
        client.aio_pread(buffer, offset)
    while client.aio_in_flight():
        client.poll(-1)
    assert all(buffer.to_bytearray() == random_image[at : at + 65536] for buffer, at in buffers)
    client.shutdown()
    tools("nbdcopy")
    uri = f"nbds://localhost:{port}/?tls-certificates={keys}/client"
    subprocess.run(["nbdcopy", uri, f"{workdir}/copied"], check=True, timeout=60)
    assert Path(f"{workdir}/copied").read_bytes() == random_image


@pytest.mark.parametrize("who", ["stranger", "anonymous"])
def test_wrong_client_certificates(keys: str, serve: Callable[..., int], nbd_module: Any, who: str) -> None:
    port = serve("--tls-certificates", f"{keys}/server")
    with pytest.raises(nbd_module.Error):
        connect(nbd_module, port, f"{keys}/{who}").pread(512, 0)
    connect(nbd_module, port, f"{keys}/client").shutdown()


def test_a_revoked_certificate_is_refused(keys: str, serve: Callable[..., int], nbd_module: Any) -> None:
    """And another one of the same authority is not."""
    Path(f"{keys}/index").touch()
    Path(f"{keys}/conf").write_text("[ca]\ndefault_ca = a\n[a]\ndatabase = index\ndefault_md = sha256\n")
    authority = ["openssl", "ca", "-config", "conf", "-keyfile", "ca-key.pem", "-cert", "ca-cert.pem"]
    for step in (["-revoke", "server-cert.pem"], ["-gencrl", "-crldays", "9", "-out", "server/ca-crl.pem"]):
        subprocess.run([*authority, *step], cwd=keys, check=True, capture_output=True, timeout=60)
    connect(nbd_module, serve("--tls-certificates", f"{keys}/server"), f"{keys}/client").shutdown()
    subprocess.run([*authority, "-revoke", "client-cert.pem"], cwd=keys, check=True, capture_output=True, timeout=60)
    subprocess.run([*authority, *step], cwd=keys, check=True, capture_output=True, timeout=60)
    with pytest.raises(nbd_module.Error):
        connect(nbd_module, serve("--tls-certificates", f"{keys}/server"), f"{keys}/client").pread(512, 0)


def test_without_an_authority_clients_need_no_certificate(
    keys: str, serve: Callable[..., int], nbd_module: Any, random_image: bytes
) -> None:
    os.unlink(f"{keys}/server/ca-cert.pem")
    client = connect(nbd_module, serve("--tls-certificates", f"{keys}/server"), f"{keys}/anonymous")
    assert client.pread(512, 0) == random_image[:512]
    client.shutdown()


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece
        data += piece
    return data


def option(sock: socket.socket, number: int, body: bytes = b"") -> int:
    """Send an option; the kind of its last reply."""
    sock.sendall(p.OPTION.pack(p.OPTION_MAGIC, number, len(body)) + body)
    while True:
        _, _, kind, length = p.OPTION_REPLY.unpack(exactly(sock, p.OPTION_REPLY.size))
        exactly(sock, length)
        if kind == p.REP_ACK or kind & 1 << 31:
            return int(kind)


def plain(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 10)
    exactly(sock, p.GREETING.size)
    sock.sendall(p.CLIENT_FLAGS.pack(3))
    return sock


def test_no_downgrade(keys: str, serve: Callable[..., int], nbd_module: Any) -> None:
    port = serve("--tls-certificates", f"{keys}/server")
    with pytest.raises(nbd_module.Error):
        connect(nbd_module, port, tls=False)
    with plain(port) as sock:
        go = (0).to_bytes(4, "big") + b"\0\0"
        for number, body in ((p.OPT_LIST, b""), (p.OPT_GO, go), (p.OPT_INFO, go), (p.OPT_STRUCTURED_REPLY, b"")):
            assert option(sock, number, body) == p.REP_ERR_TLS_REQD
        assert option(sock, p.OPT_STARTTLS, b"x") == p.REP_ERR_INVALID
        sock.sendall(p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 0))
        assert sock.recv(100) == b""


def test_what_was_said_in_plain_text_counts_for_nothing(keys: str, serve: Callable[..., int]) -> None:
    port = serve("--tls-certificates", f"{keys}/server", "--tls", "on")
    with plain(port) as sock:
        start = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STARTTLS, 0)
        sock.sendall(start + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_LIST, 0))
        assert sock.recv(100) == b""
    context = ssl.create_default_context(cafile=f"{keys}/ca-cert.pem")
    context.load_cert_chain(f"{keys}/client-cert.pem", f"{keys}/client-key.pem")
    with plain(port) as sock:
        assert option(sock, p.OPT_STRUCTURED_REPLY) == p.REP_ACK
        assert option(sock, p.OPT_STARTTLS) == p.REP_ACK
        with context.wrap_socket(sock, server_hostname="localhost") as secure:
            meta = bytes(8)
            assert option(secure, p.OPT_LIST_META_CONTEXT, meta) == p.REP_ERR_INVALID
            assert option(secure, p.OPT_STARTTLS) == p.REP_ERR_INVALID
            assert option(secure, p.OPT_STRUCTURED_REPLY) == p.REP_ACK
            assert option(secure, p.OPT_LIST_META_CONTEXT, meta) == p.REP_ACK
            assert option(secure, p.OPT_ABORT) == p.REP_ACK


def test_rubbish_instead_of_a_handshake(keys: str, serve: Callable[..., int], nbd_module: Any) -> None:
    port = serve("--tls-certificates", f"{keys}/server")
    witness = connect(nbd_module, port, f"{keys}/client")
    for rubbish in (
        b"\0" * 1000,
        os.urandom(100000),
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"x" * 70000,
    ):
        with plain(port) as sock:
            assert option(sock, p.OPT_STARTTLS) == p.REP_ACK
            try:
                sock.sendall(rubbish)
                while sock.recv(4096):
                    pass
            except ConnectionError:
                pass
    assert len(witness.pread(4096, 0)) == 4096
    witness.shutdown()


def test_loopback_without_keys_is_plain(serve: Callable[..., int], nbd_module: Any, random_image: bytes) -> None:
    client = connect(nbd_module, serve(), tls=False)
    assert client.pread(4096, 0) == random_image[:4096]
    client.shutdown()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "0.0.0.0:0"], "give --tls-certificates DIR"),
        (["--listen", "127.0.0.1:0", "--tls", "require"], "give --tls-certificates DIR"),
        (["--listen", "127.0.0.1:0", "--tls-certificates", "/nonesuch"], "/nonesuch/server-cert.pem is not there"),
        (["--listen", "nohow"], "give HOST:PORT"),
        (["--listen", "192.0.2.1:10809"], "choose an address of this host"),
        ([], "give --nbd SOCKET or --listen HOST:PORT"),
    ],
)
def test_refusals(provider: Any, options: list[str], words: str) -> None:
    done = subprocess.run([*command(provider), *options], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


def test_keys_that_do_not_fit(keys: str) -> None:
    Path(f"{keys}/server/server-key.pem").write_text(Path(f"{keys}/client-key.pem").read_text())
    with pytest.raises(VssError, match=r"server-cert\.pem cannot be used"):
        certificate_context(f"{keys}/server")
    Path(f"{keys}/server/ca-cert.pem").write_text("nothing")
    Path(f"{keys}/server/server-key.pem").write_text(Path(f"{keys}/server-key.pem").read_text())
    with pytest.raises(VssError, match=r"ca-cert\.pem cannot be used"):
        certificate_context(f"{keys}/server")


def test_shared_keys(workdir: str) -> None:
    path = f"{workdir}/keys.psk"
    Path(path).write_text("alice:00ff\n\nbob:1234\n")
    assert read_keys(path) == {"alice": b"\0\xff", "bob": b"\x12\x34"}
    for text in ("alice", "alice:xyz", ":00"):
        Path(path).write_text(text)
        with pytest.raises(VssError, match="USER:KEY"):
            read_keys(path)


def test_copies_with_shared_keys(
    provider: Any, serve: Callable[..., int], nbd_module: Any, workdir: str, random_image: bytes
) -> None:
    """Where Python's ssl module has them; elsewhere one sentence says which Python does."""
    path = f"{workdir}/keys.psk"
    Path(path).write_text(f"alice:{os.urandom(32).hex()}\n")
    if not hasattr(ssl.SSLContext, "set_psk_server_callback"):
        options = ["--listen", "127.0.0.1:0", "--tls-psk", path]
        done = subprocess.run([*command(provider), *options], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1 and "need Python 3.13" in done.stderr and "Traceback" not in done.stderr
        return
    port = serve("--tls-psk", path)
    Path(f"{workdir}/other.psk").write_text(f"alice:{os.urandom(32).hex()}\nmallory:{os.urandom(32).hex()}\n")
    for user, file, fits in (("alice", path, True), ("alice", "other.psk", False), ("mallory", "other.psk", False)):
        client = nbd_module.NBD()
        client.set_tls(nbd_module.TLS_REQUIRE)
        client.set_tls_psk_file(os.path.join(workdir, file))
        client.set_tls_username(user)
        if fits:
            client.connect_tcp("localhost", str(port))
            assert client.pread(4096, 0) == random_image[:4096]
        else:
            with pytest.raises(nbd_module.Error):
                client.connect_tcp("localhost", str(port))


def test_loopback_addresses() -> None:
    for address, expected in (("127.0.0.1:0", True), ("0.0.0.0:0", False)):
        with listen_tcp(address) as sock:
            assert is_loopback(sock) is expected
