"""The status page's server: read-only, on a Unix socket or on the loopback interface.

On the loopback interface every user of the host can connect, so a browser must show a secret once, in the address that
is printed at the start; it keeps it as a cookie. On a Unix socket the socket's mode decides. Requests that name
another host are refused, so that no page from elsewhere can reach it under its own name.
"""

from __future__ import annotations

import hmac
import http.cookies
import os
import socket
import socketserver
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from shadowset.requester.page.elements import STYLE, document, el
from shadowset.requester.page.sources import Sources
from shadowset.vss.codes import Code, VssError

COOKIE = "shadowset"
PATIENCE_S = 30
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Query = dict[str, str]


class Refused(Exception):
    """A request that gets this status and one sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: PageServer
    timeout = PATIENCE_S
    server_version = "Shadowset"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with a page, or a sentence."""
        try:
            self._answer()
        except Refused as refusal:
            body = document(str(refusal.status.phrase), el("p", refusal.sentence, class_="bad"))
            self._send(refusal.status, body)
        except VssError as error:
            missing = error.code == Code.VSS_E_OBJECT_NOT_FOUND
            status = HTTPStatus.NOT_FOUND if missing else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(status, document(status.phrase, el("p", error.message, class_="bad")))
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    do_HEAD = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, errors="surrogateescape").items()}
        if "token" in query and self._is_right(query["token"]):
            self._let_in(parts.path, {name: value for name, value in query.items() if name != "token"})
            return
        self._check()
        if parts.path == "/style.css":
            self._send(HTTPStatus.OK, STYLE.encode(), "text/css")
        elif parts.path == "/file":
            self._download(query)
        elif parts.path in self.server.pages:
            self._send(HTTPStatus.OK, self.server.pages[parts.path](query))
        else:
            raise Refused(HTTPStatus.NOT_FOUND, f"There is no page {parts.path}.")

    def _check(self) -> None:
        """Errors: Refused."""
        if self.server.token is None:
            return
        if self.headers.get("Host", "") not in self.server.hosts:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "This page is served to this host under its own name only.")
        if not self._is_right(self._cookie()):
            sentence = "Open the address that 'shadowset page' printed when it started: it has the secret in it."
            raise Refused(HTTPStatus.FORBIDDEN, sentence)

    def _is_right(self, token: str) -> bool:
        mine = self.server.token
        return mine is not None and hmac.compare_digest(token.encode(errors="replace"), mine.encode())

    def _let_in(self, path: str, query: Query) -> None:
        """The browser keeps the secret, and its address line forgets it."""
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Set-Cookie", f"{COOKIE}={self.server.token}; HttpOnly; SameSite=Strict; Path=/")
        rest = "?" + urlencode(query, errors="surrogateescape") if query else ""
        self.send_header("Location", "/" + quote(path.strip("/")) + rest)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _cookie(self) -> str:
        try:
            found = http.cookies.SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except http.cookies.CookieError:
            return ""
        return found.value if found else ""

    def _download(self, query: Query) -> None:
        if not query.get("of") or not query.get("path"):
            raise Refused(HTTPStatus.BAD_REQUEST, "A download needs a backup and a file.")
        with self.server.sources.file(query["of"], query["path"]) as source:
            size = os.fstat(source).st_size
            self.send_response(HTTPStatus.OK)
            self._headers("application/octet-stream", size)
            name = quote(os.path.basename(query["path"]), errors="surrogateescape")
            self.send_header("Content-Disposition", f"attachment; filename*=UTF-8''{name}")
            self.end_headers()
            while self.command == "GET" and (data := os.read(source, 1 << 18)):
                self.wfile.write(data)

    def _headers(self, kind: str, size: int) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        for name, value in HEADERS.items():
            self.send_header(name, value)

    def _send(self, status: HTTPStatus, body: bytes, kind: str = "text/html; charset=utf-8") -> None:
        self.send_response(status)
        self._headers(kind, len(body))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: addresses would have secrets in them."""

    def address_string(self) -> str:
        """Nothing that would be looked up."""
        return "local"


class PageServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves until ``shutdown``. ``token`` is None on a Unix socket, whose mode decides who may connect."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, sources: Sources, listener: socket.socket, token: str | None) -> None:
        """``listener`` is bound and listens."""
        socketserver.TCPServer.__init__(self, ("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.sources = sources
        self.token = token
        self.hosts: set[str] = set()
        if token is not None:
            port = listener.getsockname()[1]
            self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        self.pages: dict[str, Callable[[Query], bytes]] = {
            "/": lambda query: sources.overview(),
            "/copies": lambda query: sources.copies(),
            "/set": lambda query: sources.one_set(query.get("id", "")),
            "/backups": lambda query: sources.backups(),
            "/backup": lambda query: sources.one_backup(query.get("of", ""), query.get("file", "") or "*"),
            "/events": lambda query: sources.events(),
        }

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection; a Unix socket's client has no address."""
        connection, _ = self.socket.accept()
        return connection, ("local", 0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of ours; all others are told by the thread's traceback."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextmanager
def listening(address: str) -> Iterator[tuple[socket.socket, bool]]:
    """A listening socket for ``/path`` or ``HOST:PORT`` of the loopback interface, and whether it is a Unix socket.

    Errors: E_INVALIDARG.
    """
    if address.startswith("/"):
        with _unix(address) as listener:
            yield listener, True
        return
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host not in ("127.0.0.1", "localhost", "::1") or not port.isdigit() or int(port) > 65535:
        sentence = f"{address} is no address of this host alone; give 127.0.0.1:PORT, or the path of a socket"
        raise VssError(Code.E_INVALIDARG, sentence)
    with socket.socket(socket.AF_INET6 if host == "::1" else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, int(port)))
            listener.listen(32)
        except OSError as error:
            raise VssError(Code.E_INVALIDARG, f"{address} cannot be listened on: {error.strerror}") from None
        yield listener, False


@contextmanager
def _unix(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        if _is_dead_socket(path):
            os.unlink(path)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError as error:
            raise VssError(Code.E_INVALIDARG, f"{path} cannot be listened on: {error.strerror}") from None
        finally:
            os.umask(mask)
        try:
            listener.listen(32)
            yield listener
        finally:
            os.unlink(path)


def _is_dead_socket(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
