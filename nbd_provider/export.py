"""``shadowset-export``: serves shadow copies read-only over NBD, beside the process that writes their storage."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Sequence

from shadowset import __version__
from shadowset.nbd_provider.copy_export import CopyDirectory
from shadowset.nbd_provider.handshake import Tls
from shadowset.nbd_provider.listening import is_loopback, is_tcp, listen_tcp, listen_unix, passed_socket
from shadowset.nbd_provider.process import allow_many_files, start_logging
from shadowset.nbd_provider.server import Server
from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.tls import certificate_context, psk_context
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)

DESCRIPTION = """Serve the shadow copies of one volume read-only over NBD.

Each copy is an export named by its copy id; the default export is the newest copy. The copies are read straight from
shadow storage and origin, so the process that serves the live volume is not burdened. A listening socket passed by
systemd (LISTEN_FDS) is served as well."""

EXAMPLE = """example:
  shadowset-export --storage /var/lib/shadowset/storage/data --origin /dev/vdb --nbd /run/copies.sock
  nbdinfo --list nbd+unix:///?socket=/run/copies.sock

  shadowset-export --storage /var/lib/shadowset/storage/data --origin /dev/vdb \\
      --listen 0.0.0.0:10809 --tls-certificates /etc/shadowset/tls
  nbdinfo --list 'nbds://server/?tls-certificates=/etc/pki/client'"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "shadowset-export",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--storage", required=True, metavar="DIR", help="shadow storage directory of the volume")
    parser.add_argument("--origin", required=True, metavar="PATH", help="block device or image file of the volume")
    parser.add_argument("--copy", metavar="ID", help="serve this copy only")
    parser.add_argument("--nbd", metavar="SOCKET", help="Unix socket to serve NBD on")
    parser.add_argument("--listen", metavar="HOST:PORT", help="TCP address to serve NBD on")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--tls-certificates",
        metavar="DIR",
        help="directory with server-cert.pem and server-key.pem; with ca-cert.pem, clients must show a certificate",
    )
    keys.add_argument("--tls-psk", metavar="FILE", help="file of pre-shared keys, a line USER:KEY each (Python 3.13)")
    parser.add_argument(
        "--tls",
        choices=[mode.value for mode in Tls],
        help="over TCP, refuse, allow or require TLS (default: require, but off on a loopback address without keys)",
    )
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def choose_tls(options: argparse.Namespace, sock: socket.socket) -> tuple[Tls, ssl.SSLContext | None]:
    """How to serve a socket; Unix sockets have file permissions instead. Errors: E_INVALIDARG."""
    if not is_tcp(sock):
        return Tls.OFF, None
    keys = options.tls_certificates or options.tls_psk
    mode = Tls(options.tls) if options.tls else Tls.REQUIRE
    where = "{}:{}".format(*sock.getsockname()[:2])
    if not options.tls and not keys and is_loopback(sock):
        mode = Tls.OFF
    if mode is Tls.OFF:
        if not is_loopback(sock):
            log.warning("shadow copies are served on %s without TLS: whoever reaches it can read them", where)
        return Tls.OFF, None
    if not keys:
        message = (
            f"{where} is to be served with TLS; give --tls-certificates DIR, or --tls off where everybody may read"
        )
        raise VssError(Code.E_INVALIDARG, message)
    if options.tls_psk:
        return mode, psk_context(options.tls_psk)
    return mode, certificate_context(options.tls_certificates)


def entries(options: argparse.Namespace) -> list[layout.Entry]:
    """The copies to serve. Errors: VssError."""
    wanted = options.copy
    return [each for each in list_copies(options.storage) if wanted in (None, str(each.copy_id))]


def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT. Errors: VssError before anything is served."""
    passed = passed_socket()
    if not options.nbd and not options.listen and passed is None:
        raise VssError(Code.E_INVALIDARG, "there is no socket to serve on; give --nbd SOCKET or --listen HOST:PORT")
    entries(options)
    server = Server(CopyDirectory(options.storage, options.origin, lambda: entries(options)))
    if passed is not None:
        server.serve_nbd(passed, *choose_tls(options, passed), keep=True)
    if options.listen:
        sock = listen_tcp(options.listen)
        server.serve_nbd(sock, *choose_tls(options, sock))
        log.info("shadow copies are served on %s:%d", *sock.getsockname()[:2])
    if options.nbd:
        server.serve_nbd(listen_unix(options.nbd))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit status 0 after a clean end, 1 when the storage cannot be served."""
    options = parser().parse_args(arguments)
    start_logging(options.log_level)
    allow_many_files()
    try:
        serve(options)
    except (VssError, OSError) as error:
        print(f"shadowset-export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
