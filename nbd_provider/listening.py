"""Listening sockets: Unix, TCP, or the one that systemd passes."""

from __future__ import annotations

import os
import socket
from typing import Final

from shadowset.vss.codes import Code, VssError

BACKLOG: Final = 64
FIRST_PASSED_FD: Final = 3


def answers(path: str) -> bool:
    """Whether a server listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def listen_unix(path: str, mode: int = 0o600) -> socket.socket:
    """A listening socket; a stale one of a dead server is replaced. Errors: VssError when a server lives there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if os.path.exists(path):
            if answers(path):
                raise VssError(Code.VSS_E_PROVIDER_IN_USE, f"another server listens on {path}; stop it first")
            os.unlink(path)
        sock.bind(path)
        os.chmod(path, mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        message = f"socket {path} cannot be made: {error.strerror or error}; check the directory and the path's length"
        raise VssError(Code.E_INVALIDARG, message) from None
    except BaseException:
        sock.close()
        raise
    return sock


def listen_tcp(address: str) -> socket.socket:
    """A listening socket on ``HOST:PORT``; an IPv6 address stands in brackets. Errors: E_INVALIDARG."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise VssError(
            Code.E_INVALIDARG, f"{address!r} is no address to listen on; give HOST:PORT, as in 0.0.0.0:10809"
        )
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        try:
            for level, option in (
                (socket.SOL_SOCKET, socket.SO_REUSEADDR),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY),
            ):
                sock.setsockopt(level, option, 1)
            sock.bind(place)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        message = f"{address} cannot be listened on: {error.strerror or error}; choose an address of this host"
        raise VssError(Code.E_INVALIDARG, message) from None
    return sock


def passed_socket() -> socket.socket | None:
    """The listening socket that systemd (LISTEN_FDS) passed to this process, if any.

    Errors: E_INVALIDARG when it is not exactly one listening stream socket.
    """
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return None
    count = os.environ.pop("LISTEN_FDS", "0")
    os.environ.pop("LISTEN_FDNAMES", None)
    if count == "0":
        return None
    if count != "1":
        raise VssError(Code.E_INVALIDARG, f"{count} sockets were passed to this process; pass one, for NBD")
    try:
        sock = socket.socket(fileno=FIRST_PASSED_FD)
        listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listening = 0
    if not listening:
        message = "what was passed to this process is no listening stream socket; give the unit ListenStream="
        raise VssError(Code.E_INVALIDARG, message)
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def is_tcp(sock: socket.socket) -> bool:
    """Whether clients of the socket come over TCP."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this host can reach a TCP socket."""
    import ipaddress

    address = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
