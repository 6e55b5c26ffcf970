"""The coordinator that does only what a test tells it, and the processes that tests start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.writers.conformance.coordinator import FakeCoordinator


@pytest.fixture
def runtime() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="ss-", dir="/tmp")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def coordinator(runtime: str) -> Iterator[FakeCoordinator]:
    fake = FakeCoordinator(runtime)
    yield fake
    fake.stop()


class Processes:
    """Starts project commands against the fake coordinator, and ends what is left of them."""

    def __init__(self, runtime: str) -> None:
        self._environment = {**os.environ, "SHADOWSET_RUNTIME_DIR": runtime, "PYTHONUNBUFFERED": "1"}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        environment = {name: options.pop(name) for name in list(options) if name.isupper()}
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**self._environment, **environment},
            stdout=options.pop("stdout", subprocess.DEVNULL),
            text=True,
            **options,
        )
        self._started.append(process)
        return process

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def processes(runtime: str) -> Iterator[Processes]:
    started = Processes(runtime)
    yield started
    started.end()


FARM = ("-m", "shadowset.writers.farm.main")


class RunningFarm:
    """``shadowset-farm run`` and what it last said about itself."""

    def __init__(self, processes: Processes, directory: Path, *options: str) -> None:
        self.a, self.b = str(directory / "a"), str(directory / "b")
        made = processes.run(*FARM, "init", self.a, self.b)
        assert made.returncode == 0, made.stderr
        self.lines: list[dict[str, Any]] = []
        self._processes = processes
        self.start(*options)

    def start(self, *options: str) -> None:
        self.lines.clear()
        self.process = self._processes.start(
            *FARM, "run", self.a, self.b, "--json", "--interval", "0.2", *options, stdout=subprocess.PIPE
        )
        threading.Thread(target=self._follow, args=(self.process.stdout,), daemon=True).start()

    def _follow(self, stream: Any) -> None:
        try:
            for line in stream:
                self.lines.append(json.loads(line))
        except ValueError:
            return  # closed by the fixture

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 20.0) -> dict[str, Any]:
        seen = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines[seen:]:
                if condition(line):
                    return line
            seen = len(self.lines)
            assert self.process.poll() is None, "the farm ended"
            time.sleep(0.05)
        raise AssertionError(f"the farm did not get there; it last said {self.lines[-1:]}")

    def wait_for_work(self) -> None:
        """Until requests of every kind were done after now."""
        before = len(self.lines)
        base: dict[str, Any] = {}

        def grown(line: dict[str, Any]) -> bool:
            if not base:
                base.update(line)
            return all(line[name] > base[name] for name in ("transfers", "documents", "reads"))

        self.lines = self.lines[before:]
        self.wait_for(grown)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0

    def check(self, a: str = "", b: str = "", *options: str) -> tuple[int, dict[str, Any]]:
        result = self._processes.run(*FARM, "check", a or self.a, b or self.b, "--json", *options)
        assert result.stdout, result.stderr
        return result.returncode, json.loads(result.stdout)


@pytest.fixture
def make_farm(processes: Processes, tmp_path: Path) -> Callable[..., RunningFarm]:
    return lambda *options: RunningFarm(processes, tmp_path, *options)
