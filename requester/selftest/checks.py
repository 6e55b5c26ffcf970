"""The checks, in their order: each does something bad to an installation of its own, and looks what became of it."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from shadowset.requester.selftest import load
from shadowset.requester.stage import Stage, StageError, module

SIZE = 256 << 20
VOLUME = "selftest"
FREEZE_WINDOW_MS = 3000
HANGING_WRITER = """\
writer_name = "Hanging writer"
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "filegroup"
component_name = "all"
component_file = [{{ path = "{place}", filespec = "first" }}]
[[action]]
writer_event = "Freeze"
ending = "hang"
"""


class Outcome(msgspec.Struct, kw_only=True):
    """How a check went; ``trouble`` is empty when it held, ``detail`` says what was measured."""

    check: str
    seconds: float
    trouble: str = ""
    detail: str = ""


class SelfTest:
    """One run on a ``stage``."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._place = f"{stage.directory}/{VOLUME}"
        self._daemon: subprocess.Popen[bytes] | None = None

    def checks(self) -> list[tuple[str, Callable[[], str]]]:
        """Name and work of each; the work returns what was measured."""
        return [
            ("a volume of its own, and an application on it", self._prepare),
            ("a copy under load is an instant", self._instant),
            ("the provider is killed: no error, the copy is the same", self._kill_provider),
            ("the coordinator is killed anywhere in a set: nothing stays frozen", self._kill_coordinator),
            ("a writer hangs while frozen: its set fails in time", self._hanging_writer),
            ("the shadow storage is full: the live volume goes on", self._full),
        ]

    def run(self, tell: Callable[[Outcome], None]) -> list[Outcome]:
        """All checks; after one that fails the others are still made, but none without the volume."""
        outcomes = []
        for name, work in self.checks():
            began = time.monotonic()
            outcome = Outcome(check=name, seconds=0.0)
            try:
                outcome.detail = work()
            except StageError as error:
                outcome.trouble = str(error)
            except (OSError, subprocess.SubprocessError) as error:
                outcome.trouble = f"it could not be made: {error}"
            outcome.seconds = time.monotonic() - began
            outcomes.append(outcome)
            tell(outcome)
            if outcome.trouble and len(outcomes) == 1:
                break
        return outcomes

    # ---- the checks ----

    def _prepare(self) -> str:
        stage = self._stage
        self._start_daemon()
        image = f"{stage.directory}/{VOLUME}.img"
        with open(image, "wb") as file:
            file.truncate(SIZE)
        os.mkdir(self._place)
        stage.shadowset("volume", "add", VOLUME, image)
        stage.later("remove the volume", self._remove)
        volume = stage.shadowset("volume", "attach", VOLUME)
        stage.run("mkfs.ext4", "-q", volume["device"])
        stage.run("mount", volume["device"], self._place)
        stage.later(f"unmount {self._place}", partial(stage.run, "umount", self._place))
        self._load = stage.start("load", *module("shadowset.requester.selftest.load"), self._place)
        stage.wait("the application", lambda: os.path.exists(f"{self._place}/noise"))
        return f"{volume['device']}, by way of {volume['via']}"

    def _instant(self) -> str:
        copy = self._create()
        self._require_instant(copy)
        self._require_load()
        return f"writes were held for {self._held:.1f} ms"

    def _kill_provider(self) -> str:
        copy = self._create()
        before = self._digest(copy)
        longest = 0.0
        for _ in range(3):
            os.kill(self._provider(), signal.SIGKILL)
            longest = max(longest, self._require_load())
        if self._digest(copy) != before:
            raise StageError("the shadow copy is not what it was")
        self._require_instant(copy)
        return f"killed 3 times, the application waited {longest:.1f} s at the longest"

    def _provider(self) -> int:
        """Its process, as soon as the coordinator has one: that may be after the application went on."""
        seen = [0]

        def there() -> int:
            (volume,) = self._stage.shadowset("volume", "list")
            seen.append(volume["pid"])
            return seen[-1]

        self._stage.wait("the provider", there)
        return seen[-1]

    def _kill_coordinator(self) -> str:
        longest = 0.0
        for _ in range(5):
            making = subprocess.Popen(
                [*module("shadowset.requester.cli"), "create", VOLUME, "--context", "app-rollback"],
                env=self._stage.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(random.uniform(0.2, 1.2))
            assert self._daemon is not None
            self._daemon.kill()
            self._daemon.wait()
            longest = max(longest, self._require_load())
            self._start_daemon()
            making.wait(60)
        for copy in self._stage.shadowset("list"):
            self._require_instant(copy)
        return f"killed 5 times, the application waited {longest:.1f} s at the longest"

    def _hanging_writer(self) -> str:
        config = f"{self._stage.directory}/hanging.toml"
        with open(config, "w", encoding="utf-8") as file:
            file.write(HANGING_WRITER.format(place=self._place))
        writer = self._stage.start("hanging writer", *module("shadowset.writers.testwriter.main"), config)
        self._stage.wait("the writer", lambda: self._stage.shadowset("writers"))
        began = time.monotonic()
        try:
            self._stage.shadowset("create", VOLUME, "--context", "app-rollback")
        except StageError:
            took = time.monotonic() - began
        else:
            raise StageError("a set was made with a writer that never answered")
        finally:
            writer.kill()
            writer.wait()
        self._require_load()
        return f"it failed after {took:.1f} s"

    def _full(self) -> str:
        first = self._create()
        self._stage.shadowset("storage", "set", VOLUME, "--max-size", "8M", "--policy", "delete-oldest")
        began = time.monotonic()
        with open(f"{self._place}/filler", "wb") as file:
            while first["snapshot_id"] in {copy["snapshot_id"] for copy in self._stage.shadowset("list")}:
                file.seek(0)
                for _ in range(64):
                    file.write(os.urandom(1 << 20))
                file.flush()
                os.fsync(file.fileno())
                if time.monotonic() - began > 120:
                    raise StageError("the copy was not given up, though its storage must be full")
        self._require_load()
        names = [event["name"] for event in self._stage.shadowset("events")]
        lost = [name for name in names if "lost" in name]
        if not lost:
            raise StageError("a copy was lost, and no event tells of it")
        return f"the copy was given up, and the event {lost[-1]} tells"

    # ---- means ----

    def _start_daemon(self) -> None:
        stage = self._stage
        limits = ("--limit", f"freeze_window_ms={FREEZE_WINDOW_MS}")
        self._daemon = stage.start("coordinator", *module("shadowset.daemon.main"), *limits)
        stage.wait("the coordinator to answer", stage.answers)

    def _remove(self) -> None:
        if not self._stage.answers():
            self._start_daemon()
        self._stage.run(*module("shadowset.requester.cli"), "volume", "remove", VOLUME, "--force")

    def _create(self) -> Any:
        record = self._stage.shadowset("create", VOLUME, "--context", "client-accessible")
        self._held = record["volumes"][0]["hold_ms"]
        return record["snapshots"][0]

    def _digest(self, copy: Any) -> str:
        with open(copy["device_object"], "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _require_instant(self, copy: Any) -> None:
        place = self._stage.shadowset("mount", copy["snapshot_id"])["path"]
        trouble = load.is_instant(place)
        self._stage.run(*module("shadowset.requester.cli"), "umount", copy["snapshot_id"])
        if trouble:
            raise StageError(f"copy {copy['device_object']} is no instant of the volume: {trouble}")

    def _require_load(self) -> float:
        """The application writes on within a minute, and saw no error; how long it took until it wrote, in seconds."""
        began = time.monotonic()
        first = self._round()
        self._stage.wait(
            "the application to write on", lambda: self._load.poll() is not None or self._round() > first, 60
        )
        if self._load.poll() is not None:
            raise StageError("the application got an error from the live volume and ended")
        return time.monotonic() - began

    def _round(self) -> int:
        """From the cache of the live file, which no frozen file system keeps from being read."""
        with open(f"{self._place}/first", "rb") as file:
            try:
                return load.number_in(file.read())
            except ValueError:
                return 0  # it is just being written
