"""A third party's application: books orders into its own SQLite database, and knows nothing of shadow copies.

The farm only registers its database; the SQLite writer protects it. Every order's total is the sum of its lines.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time

from shadowset.writers.farm.layout import connect

KEPT_ORDERS = 500
BUSY_SECONDS = 120.0  # longer than any freeze
REPORT_SECONDS = 0.2
ENDED_AS_ASKED = (0, -signal.SIGTERM)


def book(database: sqlite3.Connection) -> None:
    """One order with its lines, in one transaction."""
    lines = [random.randint(1, 100) for _ in range(random.randint(1, 5))]
    database.execute("BEGIN IMMEDIATE")
    try:
        order = database.execute("INSERT INTO orders (total) VALUES (?)", (sum(lines),)).lastrowid
        database.executemany("INSERT INTO lines VALUES (?, ?)", [(order, amount) for amount in lines])
        database.execute("DELETE FROM lines WHERE order_id <= ?", ((order or 0) - KEPT_ORDERS,))
        database.execute("DELETE FROM orders WHERE id <= ?", ((order or 0) - KEPT_ORDERS,))
        database.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def main(argv: list[str]) -> int:
    """Works until standard input ends; reports ``{"orders", "errors", "error"}`` on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    path, pause = argv[1], float(argv[2])
    database: sqlite3.Connection | None = None
    counters: dict[str, int | str] = {"orders": 0, "errors": 0, "error": ""}
    orders = errors = 0
    reported = 0.0
    while not select.select([sys.stdin], [], [], pause)[0]:
        try:
            database = database or connect(path, BUSY_SECONDS)
            book(database)
            orders, counters["error"] = orders + 1, ""
        except sqlite3.Error as error:
            errors, counters["error"] = errors + 1, str(error)
            if database is not None:
                database.close()
            database = None
            time.sleep(REPORT_SECONDS)
        if time.monotonic() - reported >= REPORT_SECONDS:
            reported = time.monotonic()
            try:
                print(json.dumps({**counters, "orders": orders, "errors": errors}), flush=True)
            except BrokenPipeError:
                break  # the farm was killed
    if database is not None:
        database.close()
    return 0


class ThirdParty:
    """The farm's handle on the application: starts, stops, and starts it again when it dies."""

    def __init__(self, database: str, pause: float) -> None:
        self._command = [sys.executable, "-m", "shadowset.writers.farm.thirdparty", database, str(pause)]
        self._wanted = False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._before = [0, 0]
        self._now = [0, 0]
        self.error = ""

    @property
    def orders(self) -> int:
        """Orders booked since the farm was started."""
        return self._before[0] + self._now[0]

    @property
    def errors(self) -> int:
        """Orders that failed, and deaths of the application."""
        return self._before[1] + self._now[1]

    def start(self) -> None:
        """Runs the application until ``stop``."""
        if self._thread is None:
            self._wanted = True
            self._thread = threading.Thread(target=self._keep_running, name="third party", daemon=True)
            self._thread.start()

    def _keep_running(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    return
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
                )
            self._follow(self._process)
            time.sleep(REPORT_SECONDS)

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            report = json.loads(line)
            self._now = [report["orders"], report["errors"]]
            self.error = report["error"]
        status = process.wait()
        process.stdout.close()
        self._before = [self._before[0] + self._now[0], self._before[1] + self._now[1] + (status not in ENDED_AS_ASKED)]
        self._now = [0, 0]

    def stop(self) -> None:
        """Ends the application; its locks are gone when this returns."""
        with self._lock:
            self._wanted = False
            if self._process is not None:
                self._process.terminate()
                if self._process.stdin is not None:
                    self._process.stdin.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
