"""A real coordinator without volumes, and test writers in threads: whole backups and restores of unprotected files.

Files whose masks ask for no shadow copy are read where they are, so a set without volumes serves. What only a shadow
copy can show is tested with volumes elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.administration import Administration
from shadowset.requester.backup.engine import BackupJob, BackupReport
from shadowset.requester.backup.plan import Choice
from shadowset.requester.restore.engine import RestoreJob, RestoreReport
from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths
from shadowset.writers.testwriter.main import load
from shadowset.writers.testwriter.writer import ConfiguredWriter

PLACES = (("RUNTIME", "run"), ("STATE", "state"), ("CONFIG", "etc"))
LIVE = ", ".join(f"{kind}_snapshot_required = false" for kind in ("full", "diff", "inc", "log"))


class Daemon:
    """The coordinator's process, for all tests of a module."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.paths = Paths(f"{directory}/run", f"{directory}/state", f"{directory}/etc")
        self.environment = {f"SHADOWSET_{name}_DIR": f"{directory}/{place}" for name, place in PLACES}
        with open(f"{directory}/log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shadowset.daemon.main"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment, "SHADOWSET_WITHOUT_ROOT": "1"},
            )

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            with Administration(self.paths):
                return True
        except VssError:
            return False

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def wait(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)
        # What serves the device objects outlives the coordinator, by design.
        for pid in self._left_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self.wait(lambda: not self._left_over())
        if os.path.ismount(self.paths.devices):
            subprocess.run(["umount", "-l", self.paths.devices], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _left_over(self) -> list[int]:
        """Processes that name this directory."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                    if os.fsencode(f"{self.directory}/") in file.read():
                        found.append(int(name))
        return found


class Service:
    """The coordinator and the writers of one test; ``data`` is a directory for the files of writers."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.paths = daemon.paths
        self.directory = directory
        self.data = directory / "data"
        self.data.mkdir()
        self.writers: list[ConfiguredWriter] = []
        self.wait = daemon.wait

    def instances(self) -> set[str]:
        """Those connected."""
        with Administration(self.paths) as administration:
            return {writer.instance_id for writer in administration.list_writers() if writer.connected}

    def writer(self, text: str) -> ConfiguredWriter:
        """A test writer by TOML, connected; ``{data}`` is the directory, ``{live}`` the flags of a live file set."""
        config = self.directory / f"writer{len(self.writers)}.toml"
        config.write_text(text.replace("{data}", str(self.data)).replace("{live}", LIVE))
        before = self.instances()
        writer = ConfiguredWriter(load(str(config)), self.paths.writer_socket)
        self.writers.append(writer)
        writer.start()
        self.wait(lambda: len(self.instances()) > len(before))
        return writer

    def stop(self, writer: ConfiguredWriter) -> None:
        """The writer's process ends, as it were."""
        count = len(self.instances())
        writer.stop()
        self.writers.remove(writer)
        self.wait(lambda: len(self.instances()) < count)

    def backup(self, name: str, choice: Choice = Choice(), **options: Any) -> BackupReport:  # noqa: B008 -- frozen
        return BackupJob(str(self.directory / name), choice, paths=self.paths, **options).run()

    def restore(self, name: str, **options: Any) -> RestoreReport:
        return RestoreJob(str(self.directory / name), paths=self.paths, **options).run()

    def close(self) -> None:
        for writer in self.writers:
            writer.stop()
        self.wait(lambda: not self.instances())


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A coordinator without volumes."""
    made = Daemon(tempfile.mkdtemp(prefix="ss-", dir="/tmp"))
    try:
        made.wait(made.answers)
        yield made
    finally:
        made.close()


@pytest.fixture
def service(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name, value in daemon.environment.items():
        monkeypatch.setenv(name, value)
    made = Service(daemon, tmp_path)
    try:
        yield made
    finally:
        made.close()
