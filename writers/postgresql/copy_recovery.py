"""A cluster recovers inside a fresh copy of it, before anybody else can see the copy.

It is one process, PostgreSQL's single-user mode on a directory of its own (``shadow_tree.py``): no socket, no other
process, no archiver, no library, no setting of the live cluster, nobody logged in. What it has to have in common with
the live server to read its log, and to leave everything in it that is there, stands in the control file.

Whenever it is stopped, the copy is what it was: recovery can be begun again from the same checkpoint until it is
complete, and the copy's own label goes only then.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time

from shadowset.vss.codes import VssError
from shadowset.writers.postgresql.files import SEGMENT
from shadowset.writers.postgresql.private_server import as_owner, programs
from shadowset.writers.postgresql.shadow_tree import FAILED, LABEL, LOG_DIRECTORY, CopiedCluster, shadow_tree
from shadowset.writers.service import LAST_WORDS, POLL_SECONDS, Cancelled

RECOVERED = "recovered"
CLEAN = "clean, as its server was down"
STANDBY = "not recovered, as it is a standby's"
SHUT_DOWN = ("shut down", "shut down in recovery")
WISHES = ("standby.signal", "recovery.signal")
OF_THE_LOST_SERVER = ("postmaster.pid", "postmaster.opts", LABEL, "tablespace_map")
ORIGINS = 4096
NEW_ORIGINS_VERSION = 18
MEBIBYTE = 1 << 20
LARGEST_LOG_MB = 1024
SHARED_MEMORY_LINE = 7  # of postmaster.pid: key and number of the segment
SETTINGS = {
    "archive_mode": "off",
    "autovacuum": "off",
    "dynamic_shared_memory_type": "mmap",
    "external_pid_file": "",
    "fsync": "on",  # or nobody would hear of a copy that cannot take what is written
    "huge_pages": "off",
    "lc_messages": "C",
    "listen_addresses": "",
    "local_preload_libraries": "",
    "log_destination": "stderr",
    "logging_collector": "off",
    "max_replication_slots": str(ORIGINS),
    "session_preload_libraries": "",
    "shared_preload_libraries": "",
    "synchronous_standby_names": "",
    "unix_socket_directories": "",
    "wal_init_zero": "off",
    "wal_recycle": "off",
}
AS_IT_WAS = {
    "max_connections setting": "max_connections",
    "max_locks_per_xact setting": "max_locks_per_transaction",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_wal_senders setting": "max_wal_senders",
    "max_worker_processes setting": "max_worker_processes",
    "track_commit_timestamp setting": "track_commit_timestamp",
    "wal_level setting": "wal_level",
}


def recover_copy(cluster: CopiedCluster, bin_directory: str, seconds: float, cancelled: Cancelled) -> str:
    """Recovers, and shuts down cleanly; returns what the copy is now, in words.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED; the copy is as good as before.
    """
    try:
        return _Recovery(cluster, bin_directory, seconds, cancelled).run()
    except OSError as error:
        where = error.filename or cluster.data
        message = f"the copy of {cluster.data} cannot be recovered ({where}: {error.strerror})"
        raise VssError(FAILED, f"{message}; look at the shadow storage") from error


class _Recovery:
    def __init__(self, cluster: CopiedCluster, bin_directory: str, seconds: float, cancelled: Cancelled) -> None:
        self._cluster, self._cancelled = cluster, cancelled
        self._end = time.monotonic() + seconds
        self._place = cluster.place
        self._programs = programs(self._place, bin_directory)

    def run(self) -> str:
        if any(os.path.lexists(f"{self._place}/{name}") for name in WISHES):
            return STANDBY
        control = self._control()
        if control["Database cluster state"] in SHUT_DOWN and not os.path.lexists(f"{self._place}/{LABEL}"):
            done = CLEAN
        else:
            self._refuse_new_tablespaces(control)
            with shadow_tree(self._cluster) as tree:
                words = self._single_user(tree, control)
            control = self._control()
            if control["Database cluster state"] != SHUT_DOWN[0]:
                raise self._failure("does not recover", words)
            self._remove_prepared_log(control["Latest checkpoint's REDO WAL file"])
            done = RECOVERED
        for name in OF_THE_LOST_SERVER:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._place}/{name}")
        return done

    def _remove_prepared_log(self, last: str) -> None:
        """Segments that the live server had prepared for later; the next one may hold the end of the checkpoint."""
        log = self._cluster.part(LOG_DIRECTORY)
        later = sorted(name for name in os.listdir(log) if SEGMENT.fullmatch(name) and name > last)
        for name in later[1:]:
            os.unlink(f"{log}/{name}")

    def _failure(self, what: str, words: str) -> VssError:
        message = f"the cluster {self._cluster.data} {what} in its copy"
        return VssError(FAILED, f"{message} ({words}); it is as it was at the cut, and recovers when it is started")

    def _tool(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [f"{self._programs}/{name}", *arguments], capture_output=True, text=True, errors="replace",
                timeout=max(1.0, self._end - time.monotonic()), stdin=subprocess.DEVNULL, check=False, cwd="/",
                env=_environment(),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._failure("cannot be looked at", f"{name}: {error}") from error

    def _control(self) -> dict[str, str]:
        done = self._tool("pg_controldata", "-D", self._place)
        if done.returncode:
            raise self._failure("cannot be looked at", " ".join(done.stderr.split()))
        pairs = (line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
        return {name.strip(): value.strip() for name, value in pairs}

    def _refuse_new_tablespaces(self, control: dict[str, str]) -> None:
        """Replaying one touches the directory that it was made in, which is the live one."""
        start, timeline = self._start(control)
        places = ("-p", self._cluster.part(LOG_DIRECTORY), "-t", str(timeline), "-s", start)
        made = re.search(r"desc: CREATE (.*)", self._tool("pg_waldump", "-r", "Tablespace", *places).stdout)
        if made:
            what = f"cannot recover, since the tablespace {made[1]} was made after the last checkpoint,"
            raise self._failure(what, "its directory is the live one's")

    def _start(self, control: dict[str, str]) -> tuple[str, int]:
        """Position and time line from which on the log is replayed."""
        with contextlib.suppress(FileNotFoundError), open(f"{self._place}/{LABEL}", encoding="utf-8") as file:
            label = file.read()
            position = re.search(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+)", label, re.MULTILINE)
            timeline = re.search(r"^START TIMELINE: (\d+)", label, re.MULTILINE)
            if position and timeline:
                return position[1], int(timeline[1])
        return control["Latest checkpoint's REDO location"], int(control["Latest checkpoint's TimeLineID"])

    def _settings(self, control: dict[str, str]) -> dict[str, str]:
        """What differs from the control file would be written into the log, or undone in the copy."""
        segment = int(control["Bytes per WAL segment"]) // MEBIBYTE
        sizes = {"min_wal_size": f"{2 * segment}MB", "max_wal_size": f"{max(LARGEST_LOG_MB, 2 * segment)}MB"}
        kept = {setting: control[name] for name, setting in AS_IT_WAS.items()}
        with open(f"{self._place}/PG_VERSION", encoding="ascii") as file:
            new = int(file.read()) >= NEW_ORIGINS_VERSION
        origins = {"max_active_replication_origins": str(ORIGINS)} if new else {}
        return {**SETTINGS, **sizes, **kept, **origins}

    def _single_user(self, tree: str, control: dict[str, str]) -> str:
        """Runs until the server has ended by itself; its last words. Errors: VSS_E_WRITERERROR_RECOVERY_FAILED."""
        options = [part for name, value in self._settings(control).items() for part in ("-c", f"{name}={value}")]
        command = [*as_owner(os.stat(self._place), "KILL"), f"{self._programs}/postgres", "--single", "-D", tree]
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                [*command, *options, "template1"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                start_new_session=True, env=_environment(),
            )  # fmt: skip
            try:
                in_time = self._wait(process)
            finally:
                _kill(process, tree)
            log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
            words = " ".join(log.read().decode(errors="replace").split())
        if not in_time:
            raise self._failure("does not recover in time", words)
        return words

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        while process.poll() is None:
            if self._cancelled() or time.monotonic() >= self._end:
                return False
            time.sleep(POLL_SECONDS)
        return True


def _kill(process: subprocess.Popen[bytes], tree: str) -> None:
    """A server that is killed leaves a segment of shared memory behind."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGKILL)
    process.wait()
    with contextlib.suppress(OSError, IndexError), open(f"{tree}/postmaster.pid", encoding="ascii") as file:
        segment = file.read().splitlines()[SHARED_MEMORY_LINE - 1].split()[1]
        subprocess.run(["ipcrm", "-m", segment], stderr=subprocess.DEVNULL, check=False)


def _environment() -> dict[str, str]:
    """Without what libpq and the server would take from the writer's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
