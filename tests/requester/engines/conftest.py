"""A real coordinator without volumes, and test writers in threads: whole backups and restores of unprotected files.

Files whose masks ask for no shadow copy are read where they are, so a set without volumes serves. What only a shadow
copy can show is tested with volumes elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
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

LIVE = ", ".join(f"{kind}_snapshot_required = false" for kind in ("full", "diff", "inc", "log"))


class Service:
    """The coordinator's process and the writers; ``data`` is a directory for the files of writers."""

    def __init__(self, short_dir: str, directory: Path) -> None:
        self.paths = Paths(f"{short_dir}/run", f"{short_dir}/state", f"{short_dir}/etc")
        self.directory = directory
        self.data = directory / "data"
        self.data.mkdir()
        self.writers: list[ConfiguredWriter] = []
        self.log = open(directory / "service.log", "wb")  # noqa: SIM115 -- closed by close
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shadowset.daemon.main"], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL
        )
        self.wait(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.directory / "service.log").read_text()
        try:
            with Administration(self.paths):
                return True
        except VssError:
            return False

    def wait(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.directory / "service.log").read_text()
            time.sleep(0.02)

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
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture
def service(short_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name, place in (("RUNTIME", "run"), ("STATE", "state"), ("CONFIG", "etc")):
        monkeypatch.setenv(f"SHADOWSET_{name}_DIR", f"{short_dir}/{place}")
    made = Service(short_dir, tmp_path)
    try:
        yield made
    finally:
        made.close()
