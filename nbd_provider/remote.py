"""``shadowset-remote``: shadow copies of all volumes over NBD with TLS, each client only those that it may read.

Who a client is says its certificate or its pre-shared key. Which copies there are say the coordinator's descriptions of
device objects; who may read which, a file. Both are looked at anew for each client, so a change needs no restart.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import ssl
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from shadowset import __version__
from shadowset.nbd_provider.copy_export import CopyExport
from shadowset.nbd_provider.handshake import Tls
from shadowset.nbd_provider.listening import listen_tcp
from shadowset.nbd_provider.process import start_logging
from shadowset.nbd_provider.server import Server
from shadowset.nbd_provider.tls import certificate_context, psk_context
from shadowset.vss.codes import Code, VssError
from shadowset.vss.objects import DeviceObject
from shadowset.vss.paths import DEVICE_PREFIX, Paths

log = logging.getLogger(__name__)

DESCRIPTION = """Serve shadow copies read-only over NBD with TLS, so that a backup host pulls them.

Each client shows a certificate, or uses a pre-shared key, and reads the copies that the configuration allows to its
name: the exports are named by copy id or by device name (HarddiskVolumeShadowCopyN). The file is read again for each
client; its address and keys count from the start."""

EXAMPLE = """example:
  shadowset-remote /etc/shadowset/remote.toml
  nbdinfo --list 'nbds://server/?tls-certificates=/etc/pki/backup'     # on the backup host

configuration:
  listen = "0.0.0.0:10809"
  tls-certificates = "/etc/shadowset/tls"    # server-cert.pem, server-key.pem, ca-cert.pem
  [[client]]
  name = "backup.example.org"                # common name or DNS name of its certificate
  volumes = ["data"]                         # all copies of these; copies = ["ID"] allows single ones"""

DEFAULT_FILE = "remote.toml"
KEYS = {"listen", "tls-certificates", "tls-psk", "client"}
CLIENT_KEYS = {"name", "volumes", "copies"}


@dataclass(frozen=True)
class Client:
    """What one name may read; ids in lower case."""

    name: str
    volumes: frozenset[str]
    copies: frozenset[str]

    def may_read(self, copy: DeviceObject) -> bool:
        """Whether this copy is among them."""
        return copy.volume in self.volumes or copy.snapshot_id in self.copies


@dataclass(frozen=True)
class Settings:
    """One configuration file."""

    listen: str
    certificates: str
    psk: str
    clients: tuple[Client, ...]


def load(path: str) -> Settings:
    """Errors: E_INVALIDARG with a sentence that names the file and the key."""
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise _bad(path, f"it cannot be read: {error.strerror}; it says who may read which copies") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(path, f"it is not TOML: {error}") from None
    for name in tables.keys() - KEYS:
        raise _bad(path, f"there is no key {name!r}; known are {', '.join(map(repr, sorted(KEYS)))}")
    words = [tables.get(key, "") for key in ("listen", "tls-certificates", "tls-psk")]
    if not all(isinstance(word, str) for word in words) or not words[0]:
        raise _bad(path, 'give the address to listen on, as in listen = "0.0.0.0:10809"')
    if bool(words[1]) == bool(words[2]):
        raise _bad(path, "give one of the keys 'tls-certificates' and 'tls-psk'; nothing is served in plain text")
    clients = tables.get("client", [])
    if not isinstance(clients, list) or not all(isinstance(each, dict) for each in clients):
        raise _bad(path, "key 'client' must be an array of tables, as [[client]]")
    found = tuple(_client(path, number, each) for number, each in enumerate(clients, 1))
    return Settings(words[0], words[1], words[2], found)


def _client(path: str, number: int, table: dict[str, Any]) -> Client:
    where = f"client {number}"
    for key in table.keys() - CLIENT_KEYS:
        raise _bad(path, f"{where}: there is no key {key!r}; known are 'name', 'volumes' and 'copies'")
    name, volumes, copies = table.get("name"), table.get("volumes", []), table.get("copies", [])
    if not isinstance(name, str) or not name:
        raise _bad(path, f"{where}: give its name, as its certificate has it")
    for key, words in (("volumes", volumes), ("copies", copies)):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise _bad(path, f"{where}: key {key!r} must be a list of texts")
    try:
        ids = frozenset(str(UUID(each)) for each in copies)
    except ValueError:
        raise _bad(path, f"{where}: key 'copies' must list whole ids of shadow copies") from None
    return Client(name, frozenset(volumes), ids)


def _bad(path: str, reason: str) -> VssError:
    return VssError(Code.E_INVALIDARG, f"{path}: {reason}")


def described(objects: str) -> list[DeviceObject]:
    """All copies that the coordinator describes, oldest first; what cannot be read is left out."""
    found = []
    for name in os.listdir(objects):
        if re.fullmatch(r"[1-9][0-9]*\.json", name):
            try:
                with open(f"{objects}/{name}", "rb") as file:
                    found.append(msgspec.json.decode(file.read(), type=DeviceObject))
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("the description %s is left out: %s", name, error)
    return sorted(found, key=lambda copy: copy.device_number)


def _words(copy: DeviceObject) -> str:
    made = datetime.fromtimestamp(copy.created_ns // 1_000_000_000, UTC)
    return f"{DEVICE_PREFIX}{copy.device_number} of volume {copy.volume}, made {made:%Y-%m-%d %H:%M:%S} UTC"


class RemoteDirectory:
    """The copies that one client may read; for one that is not known by any ``names``, none."""

    def __init__(self, path: str, objects: str, names: frozenset[str] = frozenset()) -> None:
        self._path = path
        self._objects = objects
        self._names = names

    def seen_by(self, names: frozenset[str]) -> RemoteDirectory:
        """As a client with these names sees it."""
        return RemoteDirectory(self._path, self._objects, names)

    def _allowed(self) -> list[DeviceObject]:
        """Errors: VssError while the configuration cannot be used."""
        clients = [client for client in load(self._path).clients if client.name in self._names]
        return [copy for copy in described(self._objects) if any(client.may_read(copy) for client in clients)]

    def names(self) -> list[str]:
        """Copy ids, oldest first."""
        return [name for name, _ in self.descriptions()]

    def descriptions(self) -> list[tuple[str, str]]:
        """Copy ids, oldest first, each with its device name, volume and time; an empty list is explained in the log."""
        try:
            found = [(copy.snapshot_id, _words(copy)) for copy in self._allowed()]
            if not found:
                log.warning("%s is shown no shadow copy: %s", self._who(), self._why_none())
        except VssError as error:
            log.error("%s", error)
            return []
        return found

    def _why_none(self) -> str:
        mine = [client for client in load(self._path).clients if client.name in self._names]
        if not mine:
            return f"{self._path} has no [[client]] of this name"
        volumes = ", ".join(sorted(repr(volume) for client in mine for volume in client.volumes)) or "none"
        return (
            f"{self._path} allows it the volumes {volumes}, and of these there is no copy; "
            "'shadowset list' on this host shows what there is"
        )

    def find(self, name: str) -> CopyExport | None:
        """A copy by id or device name; the newest one by default. Errors: E_ACCESSDENIED, VssError."""
        wanted = name.lower()
        for copy in reversed(self._allowed()):
            if wanted in ("", copy.snapshot_id, f"{DEVICE_PREFIX}{copy.device_number}".lower()):
                log.info("%s reads shadow copy %s of volume %s", self._who(), copy.snapshot_id, copy.volume)
                return CopyExport(copy.storage, copy.origin, UUID(copy.copy_id), copy.snapshot_id)
        what = f"shadow copy {name[:80]!r}" if name else "any shadow copy"
        sentence = f"{self._who()} may not read {what}, or it is not there; the list of exports shows what is"
        raise VssError(Code.E_ACCESSDENIED, f"{sentence}, and {self._path} on the server says who may read what")

    def _who(self) -> str:
        return f"client {', '.join(map(repr, sorted(self._names)))}" if self._names else "a client without a name"


def keys_of(settings: Settings) -> ssl.SSLContext:
    """Errors: E_INVALIDARG, also where clients would not have to say who they are."""
    if settings.psk:
        return psk_context(settings.psk)
    context = certificate_context(settings.certificates)
    if context.verify_mode != ssl.CERT_REQUIRED:
        path = f"{settings.certificates}/ca-cert.pem"
        raise VssError(
            Code.E_INVALIDARG, f"TLS: {path} is not there; clients are known by certificates of its authority"
        )
    return context


def serve(path: str, objects: str) -> None:
    """Serve until SIGTERM or SIGINT. Errors: VssError before anything is served."""
    settings = load(path)
    if not os.path.isdir(objects):
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no {objects}; start the coordinator first")
    keys = keys_of(settings)
    server = Server(RemoteDirectory(path, objects))
    sock = listen_tcp(settings.listen)
    server.serve_nbd(sock, Tls.REQUIRE, keys)
    log.info("shadow copies are served on %s:%d", *sock.getsockname()[:2])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "shadowset-remote",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="the configuration (/etc/shadowset/remote.toml)")
    parser.add_argument("--objects", metavar="DIR", help="the descriptions (/run/shadowset/objects)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit status 0 after a clean end, 1 when nothing can be served."""
    options = parser().parse_args(arguments)
    start_logging(options.log_level)
    paths = Paths.from_environment(os.environ)
    try:
        serve(options.file or f"{paths.config}/{DEFAULT_FILE}", options.objects or paths.objects)
    except (VssError, OSError) as error:
        print(f"shadowset-remote: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
