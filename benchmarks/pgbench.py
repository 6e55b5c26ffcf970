"""A bank on PostgreSQL on a protected volume: transactions with a shadow copy set every so often, beside none.

    python -m benchmarks.pgbench [--seconds N] [--every N] [--rounds N] [--clients N]

Each round is one run without sets and one with, in turn; every other round goes backwards. A set is made with the
PostgreSQL writer taking part (checkpoint, cut), the copy before it is deleted then. Prints, for both, transactions a
second and the longest time that one transaction took, and their ratios. Needs root and PostgreSQL's server.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from shadowset.requester.stage import MissingError, Stage, StageError, check_machine, module

OWNER = "postgres"
SIZE = 3 << 30
SCALE = 20
PORT = 55470


@dataclass
class Run:
    """One run of pgbench."""

    rate: float
    longest_ms: float
    sets: int
    set_seconds: list[float]


class Bank:
    """A cluster on a volume of its own, and its writer."""

    def __init__(self, stage: Stage, programs: str) -> None:
        self.stage, self.programs = stage, programs
        self.place = f"{stage.directory}/bank"
        self.runtime = f"{stage.directory}/sockets"
        self._server = ("-h", self.runtime, "-p", str(PORT), "-U", "postgres")
        self._previous = ""

    def open(self) -> None:
        stage = self.stage
        os.chmod(stage.directory, 0o755)
        stage.start("coordinator", *module("shadowset.requester.cli"), "serve")
        stage.wait("the coordinator to listen", lambda: os.path.exists(f"{stage.runtime}/requester.sock"))
        image = f"{stage.directory}/bank.img"
        with open(image, "wb") as file:
            file.truncate(SIZE)
        stage.shadowset("volume", "add", "bank", image)
        stage.later("remove the volume", lambda: stage.shadowset("volume", "remove", "bank", "--force"))
        device = stage.shadowset("volume", "attach", "bank")["device"]
        stage.run("mkfs.ext4", "-q", device)
        os.mkdir(self.place)
        stage.run("mount", device, self.place)
        stage.later("unmount", lambda: stage.run("umount", self.place))
        for directory in (f"{self.place}/pg", self.runtime):
            os.mkdir(directory)
            shutil.chown(directory, OWNER, OWNER)
        self._start_server()
        connection = f"host={self.runtime} port={PORT} user=postgres dbname=postgres"
        stage.start("writer", *module("shadowset.writers.postgresql.main"), connection)
        stage.wait("the writer", lambda: any(writer["connected"] for writer in stage.shadowset("writers")))

    def _start_server(self) -> None:
        data = f"{self.place}/pg"
        self._tool("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
        with open(f"{data}/postgresql.conf", "a", encoding="utf-8") as file:
            file.write(f"listen_addresses = ''\nport = {PORT}\nunix_socket_directories = '{self.runtime}'\n")
            file.write("max_wal_size = 512MB\nshared_buffers = 128MB\n")
        self._tool("pg_ctl", "-w", "-D", data, "-l", f"{self.runtime}/log", "start")
        self.stage.later("stop the server", lambda: self._tool("pg_ctl", "-w", "-D", data, "-m", "immediate", "stop"))
        self._tool("createdb", *self._server, "bank")
        self._tool("pgbench", "-q", "-i", "-s", str(SCALE), *self._server, "bank")

    def _tool(self, name: str, *arguments: str) -> str:
        return self.stage.run("runuser", "-u", OWNER, "--", f"{self.programs}/{name}", *arguments)

    def run(self, seconds: int, clients: int, every: float) -> Run:
        """One run, with a set every so many seconds; 0 for none."""
        done = threading.Event()
        times: list[float] = []
        maker = threading.Thread(target=self._make_sets, args=(done, every, times))
        if every:
            maker.start()
        try:
            before = time.monotonic()
            load = ["-n", "-c", str(clients), "-j", "2", "-T", str(seconds), "-l", f"--log-prefix={self.runtime}/t"]
            self._tool("pgbench", *load, *self._server, "bank")
            took = time.monotonic() - before
        finally:
            done.set()
            if every:
                maker.join()
        return Run(*self._figures(took), len(times), times)

    def _make_sets(self, done: threading.Event, every: float, times: list[float]) -> None:
        """The sets are made by a process of their own, as a backup program would."""
        while not done.wait(every):
            started = time.monotonic()
            made = self.stage.shadowset("create", "bank")
            times.append(time.monotonic() - started)
            if self._previous:
                self.stage.shadowset("delete", self._previous)
            self._previous = made["set_id"]

    def _figures(self, took: float) -> tuple[float, float]:
        """Transactions a second, and the longest one in milliseconds, by pgbench's log."""
        longest, count = 0, 0
        for path in glob.glob(f"{self.runtime}/t.*"):
            with open(path, encoding="ascii") as log:
                for line in log:
                    longest = max(longest, int(line.split()[2]))
                    count += 1
            os.unlink(path)
        return count / took, longest / 1000


def programs() -> str:
    """Where the newest server's programs are. Errors: MissingError."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/pgbench"), key=lambda path: int(path.split("/")[4]))
    if not found:
        raise MissingError("pgbench is not installed; install postgresql")
    return str(Path(found[-1]).parent)


def measure(bank: Bank, options: argparse.Namespace) -> dict[str, list[Run]]:
    """All rounds: the runs without sets, and those with."""
    runs: dict[str, list[Run]] = {"without": [], "with": []}
    bank.run(min(10, options.seconds), options.clients, 0)  # nobody pays for the first touch of the files
    for number in range(options.rounds):
        for kind in list(runs)[:: -1 if number % 2 else 1]:
            runs[kind].append(bank.run(options.seconds, options.clients, options.every if kind == "with" else 0))
            last = runs[kind][-1]
            print(
                f"  {kind:8} {last.rate:8.0f} transactions/s, longest {last.longest_ms:7.0f} ms, {last.sets} sets",
                flush=True,
            )
    return runs


def summary(runs: dict[str, list[Run]], every: float) -> str:
    """The table, in Markdown."""
    rate = {kind: statistics.median(run.rate for run in each) for kind, each in runs.items()}
    longest = {kind: max(run.longest_ms for run in each) for kind, each in runs.items()}
    sets = [seconds for run in runs["with"] for seconds in run.set_seconds]
    return (
        f"| pgbench | without sets | with a set every {every:g} s | ratio |\n|---|---|---|---|\n"
        f"| transactions a second, median | {rate['without']:.0f} | {rate['with']:.0f} |"
        f" {rate['with'] / rate['without']:.2f} |\n"
        f"| longest transaction, ms | {longest['without']:.0f} | {longest['with']:.0f} |"
        f" {longest['with'] / longest['without']:.1f} |\n"
        f"| one set, from call to end, s, median of {len(sets)} | | {statistics.median(sets) if sets else 0:.1f} | |"
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 when it cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="length of each run, 100 at the most (60)")
    parser.add_argument("--every", type=float, default=10, help="seconds from one set to the next (10)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (3)")
    parser.add_argument("--clients", type=int, default=4, help="clients of pgbench (4)")
    parser.add_argument("--json", metavar="FILE", help="write all runs there too")
    options = parser.parse_args(arguments)
    try:
        check_machine()
        where = programs()
    except MissingError as error:
        print(f"pgbench: {error}", file=sys.stderr)
        return 1
    stage = Stage()
    try:
        bank = Bank(stage, where)
        bank.open()
        runs = measure(bank, options)
        print(summary(runs, options.every))
        if options.json:
            Path(options.json).write_text(
                json.dumps({kind: [vars(run) for run in each] for kind, each in runs.items()})
            )
    except (StageError, KeyboardInterrupt) as error:
        print(f"pgbench: {error or 'interrupted'}", file=sys.stderr)
        return 1
    finally:
        for problem in stage.close():
            print(f"pgbench: {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
