"""``shadowsetd``: the coordinator's process.

Runs until SIGTERM or SIGINT. Live volumes go on being served afterwards: their providers are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping

from shadowset import __version__
from shadowset.daemon.access import Access
from shadowset.daemon.activation import inherited_sockets
from shadowset.daemon.commands import Commands
from shadowset.daemon.config import limit_options
from shadowset.daemon.coordinator import Coordinator, make_directories
from shadowset.daemon.journal import JournalHandler, leads_to_journal
from shadowset.daemon.limits import Limits
from shadowset.daemon.quiet import HoldingHandler, Quiet
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths

WITHOUT_ROOT = "SHADOWSET_WITHOUT_ROOT"
"""Set for tests of sessions and writers, which need no device."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="shadowsetd", description="The coordinator of shadow copies.")
    parser.add_argument("--version", action="version", version=f"shadowsetd {__version__}")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=VALUE", help="set a time-out in milliseconds or a cap"
    )
    parser.add_argument(
        "--writer-window",
        action="append",
        default=[],
        metavar="WRITER_ID=MS",
        help="how long this writer class may be frozen, whatever it says itself",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    options = parser().parse_args(arguments)
    if os.geteuid() != 0 and WITHOUT_ROOT not in os.environ:
        print("shadowsetd: only root can attach, freeze and mount volumes: run it as root", file=sys.stderr)
        return 1
    sys.dont_write_bytecode = True  # an import must never write while file systems are frozen
    faulthandler.enable()  # the watchdog's SIGABRT says where it hung
    handler = HoldingHandler(_log_handler())
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler])
    paths = Paths.from_environment(os.environ)
    try:
        limit, window = limit_options(paths)
        limits = Limits.from_options([*limit, *options.limit], [*window, *options.writer_window])
        access = Access.load(paths.access)
        make_directories(paths)
        locks = [take_lock(f"{directory}/shadowsetd.lock") for directory in (paths.runtime, paths.state)]
    except VssError as error:
        print(f"shadowsetd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"shadowsetd: {error.filename} cannot be used: {error.strerror}", file=sys.stderr)
        return 1
    try:
        return asyncio.run(run(paths, limits, access, Quiet(handler)))
    finally:
        for lock in locks:
            os.close(lock)


def _log_handler() -> logging.Handler:
    """The journal where standard error leads there, else standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return JournalHandler(handler) if leads_to_journal(os.environ) else handler


def take_lock(path: str) -> int:
    """The descriptor that holds the lock. Errors: VSS_E_OBJECT_ALREADY_EXISTS when another daemon runs."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise VssError(
            Code.VSS_E_OBJECT_ALREADY_EXISTS, f"another shadowsetd (pid {pid}) already holds {path}; stop it first"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


async def run(paths: Paths, limits: Limits, access: Access, quiet: Quiet) -> int:
    """Serve until told to stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        sockets = inherited_sockets(os.environ)
        coordinator = Coordinator(paths, limits, Commands.from_environment(os.environ), quiet, access, sockets)
        await coordinator.start()
    except VssError as error:
        print(f"shadowsetd: {error}", file=sys.stderr)
        return 1
    notify("READY=1")
    logging.getLogger(__name__).info("shadowsetd %s serves %s", __version__, paths.runtime)
    alive = asyncio.ensure_future(tell_alive(watchdog_s(os.environ)))
    ends = [asyncio.ensure_future(each) for each in (stopping.wait(), coordinator.until_idle())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for each in (alive, *ends):
        each.cancel()
    notify("STOPPING=1")
    await coordinator.stop()
    return 0


def watchdog_s(environment: Mapping[str, str]) -> float:
    """After how long without a sign of life the service manager ends this process; 0: never."""
    wanted = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(wanted) / 1e6 if meant and wanted.isdecimal() else 0.0


async def tell_alive(patience_s: float) -> None:
    """Tell the service manager, for good, that the event loop goes round."""
    while patience_s:
        notify("WATCHDOG=1")
        await asyncio.sleep(patience_s / 4)


def notify(state: str) -> None:
    """Tell the service manager, where there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
