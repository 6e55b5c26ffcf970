"""``shadowset-farm``: makes, runs, judges and describes a demonstration farm."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import math
import os
import signal
import sqlite3
import sys
import time
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.writers.farm.app import Farm, FarmErrors
from shadowset.writers.farm.check import check, is_running
from shadowset.writers.farm.layout import Places, connect, create, read_registry
from shadowset.writers.farm.load import Load
from shadowset.writers.farm.thirdparty import ThirdParty
from shadowset.writers.farm.writer import FarmWriter
from shadowset.writers.sdk import signal_came

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOG = logging.getLogger("shadowset.farm")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser("shadowset-farm", description="a demonstration farm that is a VSS writer")
    verbs = arguments.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("init", "make a farm"),
        ("run", "run it under load, until SIGTERM"),
        ("check", "judge a farm that nobody runs, or a copy of one"),
        ("status", "describe a farm"),
    ):
        command = verbs.add_parser(verb, help=text, description=text)
        command.add_argument("dir_a", metavar="DIR_A", help="place of the configuration and of content_a")
        command.add_argument("dir_b", metavar="DIR_B", help="place of content_b, the index and the third party")
        command.add_argument("--json", action="store_true", help="one JSON object, or one a second while running")
        if verb == "run":
            _run_options(command)
        if verb == "check":
            command.add_argument(
                "--allow-pending", action="store_true", help="the copy was made without the farm's help"
            )
    return arguments


def _run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seconds", type=float, default=0.0, help="end after this time; 0: never")
    command.add_argument("--interval", type=float, default=1.0, help="seconds between two lines of output")
    command.add_argument("--pause-ms", type=float, default=2.0, help="between two requests of one thread")
    command.add_argument("--freeze-timeout-ms", type=int, default=60_000, help="longest time between freeze and thaw")
    command.add_argument("--writer", action=argparse.BooleanOptionalAction, default=True, help="take part in VSS")
    command.add_argument("--load", action=argparse.BooleanOptionalAction, default=True, help="work without end")


class Run:
    """A farm at work: its load, its third parties, its writer."""

    def __init__(self, places: Places, arguments: argparse.Namespace) -> None:
        self.farm = Farm(places)
        try:
            self.farm.open()
            self.farm.admit()
        except FarmErrors as error:
            LOG.warning("the farm is damaged and waits to be restored: %s", error)
        pause = arguments.pause_ms / 1000
        parties = self.farm.registry.third_party.values() if arguments.load else ()
        self.third_parties = [ThirdParty(path, max(pause, 0.02)) for path in parties]
        self.load = Load(self.farm, pause)
        self.writer = FarmWriter(self.farm, self.third_parties, arguments.freeze_timeout_ms)
        self._load_wanted, self._writer_wanted = arguments.load, arguments.writer

    def start(self) -> None:
        """Starts everything."""
        if self._load_wanted:
            self.load.start()
        for third_party in self.third_parties:
            third_party.start()
        if self._writer_wanted:
            self.writer.start()

    def stop(self) -> None:
        """Ends everything; a frozen farm is released first."""
        if self._writer_wanted:
            self.writer.stop()
        self.load.request_stop()
        for third_party in self.third_parties:
            third_party.stop()
        self.farm.stop()
        if self._load_wanted:
            self.load.join()

    def counters(self) -> dict[str, Any]:
        """One line of ``run --json``."""
        counters = self.load.counters
        return {
            "state": self.farm.state,
            "transfers": counters.transfers,
            "documents": counters.documents,
            "reads": counters.reads,
            "orders": sum(third_party.orders for third_party in self.third_parties),
            "errors": counters.errors + sum(third_party.errors for third_party in self.third_parties),
            "backups": self.writer.backups,
            "frozen_ms": round(self.farm.frozen_seconds * 1000, 3),
            "writer_connected": self.writer.connected,
            "problem": self.farm.problem,
        }


def run(places: Places, arguments: argparse.Namespace) -> int:
    """``run``: until a signal or ``--seconds``. Signals are waited for, not handled, so they interrupt no lock."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    lock = _lock(places)
    work = Run(places, arguments)
    work.start()
    end = time.monotonic() + (arguments.seconds or math.inf)
    while not signal_came(SIGNALS, min(arguments.interval, max(0.0, end - time.monotonic()))):
        _show(work.counters(), arguments.json)
        if time.monotonic() >= end:
            break
    work.stop()
    _show(work.counters(), arguments.json)
    os.close(lock)
    return 0


def _show(counters: dict[str, Any], as_json: bool) -> None:
    text = json.dumps(counters) if as_json else ", ".join(f"{name} {value}" for name, value in counters.items())
    print(text, flush=True)


def _lock(places: Places) -> int:
    try:
        lock = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise VssError(Code.VSS_E_BAD_STATE, f"the farm in {places.a} is running already; stop it first") from error
    except OSError as error:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no farm in {places.a}: {error.strerror}") from error
    return lock


def show_check(places: Places, arguments: argparse.Namespace) -> int:
    """``check``: exit status 1 when a rule is broken."""
    report = check(places, arguments.allow_pending)
    if arguments.json:
        print(json.dumps(report.as_dict()))
    else:
        for problem in report.problems:
            print(problem)
        print(
            f"money {report.money} of {report.expected_money}, transfers under way {report.transfers_under_way}, "
            f"documents {report.documents}, indexed {report.indexed}, orders {report.orders}"
        )
    return 0 if report.sound else 1


def show_status(places: Places, arguments: argparse.Namespace) -> int:
    """``status``: what the configuration database says."""
    try:
        config = connect(places.config)
        registry = read_registry(places, config)
        meta = dict(config.execute("SELECT key, value FROM meta").fetchall())
        backups = config.execute("SELECT component, time, set_id FROM backups ORDER BY time").fetchall()
        config.close()
    except sqlite3.Error as error:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"the farm in {places.a} cannot be read: {error}") from error
    status = {
        "running": is_running(places),
        "content": registry.content,
        "third_party": registry.third_party,
        "indexes": registry.indexes,
        "expected_money": int(meta["expected_total"]),
        "last_backup": meta.get("last_backup", ""),
        "backups": [dict(zip(("component", "time", "set"), row, strict=True)) for row in backups],
    }
    if arguments.json:
        print(json.dumps(status))
    else:
        for name, value in status.items():
            print(f"{name}: {value}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 for a refused command, one sentence on standard error, or a farm that breaks a rule."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    places = Places(arguments.dir_a, arguments.dir_b)
    try:
        if arguments.verb == "init":
            create(places)
            return 0
        return {"run": run, "check": show_check, "status": show_status}[arguments.verb](places, arguments)
    except VssError as error:
        print(f"shadowset-farm: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
