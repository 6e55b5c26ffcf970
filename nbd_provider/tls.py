"""TLS for NBD over TCP: the server's keys, and an encrypted stream with the two calls of a socket that we use.

The stream never keeps decrypted bytes back: it takes no more from the socket than there is room for the plain text, so
the event loop may wait for the socket alone.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from typing import Final

from shadowset.nbd_provider.handshake import TlsError
from shadowset.vss.codes import Code, VssError

RECORD: Final = 17 * 1024
"""More than one TLS record, whose beginning may have come earlier."""
WRITE_STEP: Final = 256 * 1024
PSK_CIPHERS: Final = "ECDHE+PSK:DHE+PSK:PSK"


def _bad_keys(path: str, reason: object, step: str) -> VssError:
    return VssError(Code.E_INVALIDARG, f"TLS: {path} {reason}; {step}")


def certificate_context(directory: str) -> ssl.SSLContext:
    """Keys from ``server-cert.pem`` and ``server-key.pem``; with ``ca-cert.pem`` clients must show a certificate of it.

    ``ca-crl.pem``, when it is there, lists revoked client certificates. Errors: E_INVALIDARG.
    """
    context = _new_context()
    certificate, key = f"{directory}/server-cert.pem", f"{directory}/server-key.pem"
    for path in (certificate, key):
        if not os.path.isfile(path):
            raise _bad_keys(
                path, "is not there", "name a directory with server-cert.pem, server-key.pem and ca-cert.pem"
            )
    try:
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = f"cannot be used with {key} ({error})"
        raise _bad_keys(certificate, reason, "give a PEM certificate and its key without a password") from None
    for name in ("ca-cert.pem", "ca-crl.pem"):
        path = f"{directory}/{name}"
        if not os.path.exists(path):
            continue
        try:
            context.load_verify_locations(path)
        except (ssl.SSLError, OSError) as error:
            raise _bad_keys(path, f"cannot be used ({error})", "give it in PEM form") from None
        context.verify_mode = ssl.CERT_REQUIRED
        if name == "ca-crl.pem":
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def psk_context(path: str) -> ssl.SSLContext:
    """Pre-shared keys from a file with a line ``USER:HEXADECIMAL KEY`` for each client. Errors: E_INVALIDARG."""
    context = _new_context()
    set_callback = getattr(context, "set_psk_server_callback", None)
    if set_callback is None:
        message = "TLS: pre-shared keys need Python 3.13 or later; use --tls-certificates with this Python"
        raise VssError(Code.E_INVALIDARG, message)
    keys = read_keys(path)
    context.set_ciphers(PSK_CIPHERS)

    def find(identity: str | None) -> bytes:
        context.identity = identity or ""
        return keys.get(context.identity, b"")

    set_callback(find)
    return context


def read_keys(path: str) -> dict[str, bytes]:
    """Keys by user. Errors: E_INVALIDARG."""
    keys = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in filter(None, map(str.strip, file)):
                user, _, key = line.rpartition(":")
                keys[user] = bytes.fromhex(key)
    except OSError as error:
        raise _bad_keys(path, f"cannot be read ({error.strerror})", "name a file of USER:KEY lines") from None
    except ValueError:
        raise _bad_keys(path, "has a line that is not USER:KEY", "give the key in hexadecimal digits") from None
    if not all(keys) or not all(keys.values()):
        raise _bad_keys(path, "has no keys, or one without user or key", "write one line USER:KEY for each client")
    return keys


class _Context(ssl.SSLContext):
    """``identity``: the user whose pre-shared key was last asked for."""

    identity = ""


def _new_context() -> _Context:
    """Without tickets: each connection says anew who it is, and what was revoked meanwhile counts."""
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


class TlsStream:
    """The server's side of TLS over a non-blocking socket. Errors of all calls: BlockingIOError, TlsError, OSError."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._context = context
        self._identity = ""
        self._ready = False
        self._unsent = memoryview(b"")

    @property
    def names(self) -> frozenset[str]:
        """Who the client is, after the handshake: common name and DNS names of its certificate, or its key's user."""
        certificate = self._tls.getpeercert() or {}
        found = {self._identity}
        for pairs in (*certificate.get("subject", ()), certificate.get("subjectAltName", ())):
            found |= {str(value) for kind, value in pairs if kind in ("commonName", "DNS")}
        return frozenset(found - {""})

    def _shake_hands(self) -> None:
        """The user is told by the context, in the midst of this call."""
        if isinstance(self._context, _Context):
            self._context.identity = ""
        try:
            self._tls.do_handshake()
            self._ready = True
        finally:
            self._identity = getattr(self._context, "identity", "") or self._identity

    @property
    def wants_write(self) -> bool:
        """Whether encrypted bytes wait for room in the socket."""
        return bool(self._unsent)

    def recv_into(self, view: memoryview) -> int:
        """Plain bytes; 0 at the end. ``view`` must have room for RECORD bytes and more."""
        data = self._sock.recv(len(view) - RECORD)
        if not data:
            return 0
        self._incoming.write(data)
        try:
            if not self._ready:
                self._shake_hands()
            return self._decrypt(view)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLError as error:
            raise TlsError(f"TLS failed: {error.reason or error}") from None
        finally:
            self._encrypted()

    def _decrypt(self, view: memoryview) -> int:
        count = 0
        while count < len(view):
            try:
                got = self._tls.read(len(view) - count, view[count:])
            except ssl.SSLWantReadError:
                if not count:
                    raise
                break
            if not got:
                break
            count += int(got)
        return count

    def sendmsg(self, pieces: Sequence[bytes | bytearray | memoryview]) -> int:
        """Encrypt and send; returns how many plain bytes were taken."""
        self.push()
        taken, chosen = 0, []
        for piece in pieces:
            part = memoryview(piece)[: WRITE_STEP - taken]
            chosen.append(part)
            taken += len(part)
            if taken == WRITE_STEP:
                break
        self._tls.write(b"".join(chosen))
        self._encrypted()
        return taken

    def _encrypted(self) -> None:
        """Send what TLS wants to send; what the socket does not take waits."""
        if self._outgoing.pending:
            self._unsent = memoryview(bytes(self._unsent) + self._outgoing.read())
        try:
            self.push()
        except BlockingIOError:
            pass

    def push(self) -> None:
        """Send encrypted bytes that wait."""
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def close(self) -> None:
        """Tell the client that this is the end, if it can be told at once."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass
        try:
            self._encrypted()
        except OSError:
            pass
