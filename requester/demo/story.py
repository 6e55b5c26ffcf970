"""What the demonstration shows, step by step."""

from __future__ import annotations

import json
import os
import subprocess
import time
from functools import partial
from typing import Any

from shadowset.requester.stage import Stage, StageError, end, module

VOLUMES = (("one", "ext4", 256 << 20), ("two", "xfs", 512 << 20))
STEPS = 8
FARM_WRITER = "Shadowset Farm Writer"
SQLITE_WRITER = "SQLite Writer"


def check(holds: object, claim: str) -> None:
    """Print a claim that holds. Errors: StageError when it does not."""
    if not holds:
        raise StageError(f"this does not hold: {claim}")
    print(f"    \N{CHECK MARK} {claim}")


def destroy(path: str) -> bool:
    """Overwrite a file with rubbish; False when the application has just removed it."""
    try:
        with open(path, "r+b") as file:
            file.write(os.urandom(max(4096, os.fstat(file.fileno()).st_size)))
    except FileNotFoundError:
        return False
    return True


class Story:
    """One performance."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._step = 0
        self._places = [f"{stage.directory}/{name}" for name, _, _ in VOLUMES]
        self._target = f"{stage.directory}/backup"
        self._farm_lines = f"{stage.directory}/farm.jsonl"
        self._farm: subprocess.Popen[bytes] | None = None

    def play(self) -> None:
        """All steps. Errors: StageError at the first check that does not hold."""
        print("Shadowset: shadow copies of live volumes, with the applications taking part.")
        self._make_volumes()
        self._start_farm()
        self._make_set()
        self._back_up()
        self._destroy()
        self._restore()
        self._prove()
        self._take_down()

    def _title(self, text: str) -> None:
        self._step += 1
        print(f"\n[{self._step}/{STEPS}] {text}", flush=True)

    # ---- the steps ----

    def _make_volumes(self) -> None:
        self._title("Two volumes on image files, protected and mounted")
        stage = self._stage
        stage.start("coordinator", *module("shadowset.requester.cli"), "serve")
        stage.wait("the coordinator to listen", lambda: os.path.exists(f"{stage.runtime}/requester.sock"))
        stage.later("stop the providers", self._remove_volumes)
        for (name, kind, size), place in zip(VOLUMES, self._places, strict=True):
            image = f"{stage.directory}/{name}.img"
            with open(image, "wb") as file:
                file.truncate(size)
            os.mkdir(place)
            stage.shadowset("volume", "add", name, image)
            volume = stage.shadowset("volume", "attach", name)
            device = volume["device"]
            stage.run(f"mkfs.{kind}", "-q", device)
            stage.run("mount", device, place)
            stage.later(f"unmount {place}", partial(stage.run, "umount", place))
            print(f"    {name}: {size >> 20} MiB of {kind} on {device} (by way of {volume['via']}), mounted at {place}")

    def _remove_volumes(self) -> None:
        for name, _, _ in reversed(VOLUMES):
            self._stage.run(*module("shadowset.requester.cli"), "volume", "remove", name, "--force")

    def _start_farm(self) -> None:
        self._title("A farm on both volumes, at work without pause")
        stage = self._stage
        stage.run(*module("shadowset.writers.farm.main"), "init", *self._places)
        self._check_farm(self._places)
        stage.start("sqlite writer", *module("shadowset.writers.sqlite.main"), f"{self._places[1]}/crm.db")
        with open(self._farm_lines, "wb") as lines:
            self._farm = stage.start(
                "farm", *module("shadowset.writers.farm.main"), "run", *self._places, "--json", stdout=lines
            )
        stage.wait("the farm's writer to connect", lambda: self._farm_now().get("writer_connected"))
        stage.wait("the farm to have written a hundred documents", lambda: self._farm_now().get("documents", 0) > 100)
        now = self._farm_now()
        print(f"    two content databases, a search index, a third-party database; {now['transfers']} transfers so far")
        writers = stage.shadowset("writers")
        for writer in writers:
            print(f"    writer: {writer['name']}, {writer['state'].lower()}, process {writer['pid']}")
        names = {writer["name"] for writer in writers}
        check({FARM_WRITER, SQLITE_WRITER} <= names, "the farm's writer and the SQLite writer are registered")

    def _make_set(self) -> None:
        self._title("One shadow copy set of both volumes, cut at one instant while the farm works")
        stage = self._stage
        record = stage.shadowset("create", *(name for name, _, _ in VOLUMES))
        print(stage.run(*module("shadowset.requester.cli"), "show", record["set_id"], "--timeline"))
        check(len(record["snapshots"]) == len(VOLUMES), f"both volumes were cut within {record['skew_ms']:.1f} ms")
        held = max(volume["hold_ms"] for volume in record["volumes"])
        check(held < 10_000, f"writes were held for {held:.1f} ms at the longest")
        mounts = []
        for snapshot in record["snapshots"]:
            print(f"    {snapshot['original_volume']}: {snapshot['device_object']}")
            mounts.append(stage.shadowset("mount", snapshot["snapshot_id"])["path"])
        order = [snapshot["original_volume"] for snapshot in record["snapshots"]]
        self._check_farm([mounts[order.index(name)] for name, _, _ in VOLUMES], "inside the shadow copies")
        for snapshot in record["snapshots"]:
            stage.run(*module("shadowset.requester.cli"), "umount", snapshot["snapshot_id"])
            stage.shadowset("delete", snapshot["snapshot_id"])

    def _back_up(self) -> None:
        self._title("A backup of all components, while the farm works on")
        before = self._farm_now()["transfers"]
        done = self._stage.shadowset("backup", self._target, show_progress=True)
        self._stage.wait("the farm to make transfers after the backup", lambda: self._farm_now()["transfers"] > before)
        count = sum(len(files) for _, _, files in os.walk(f"{self._target}/files"))
        size = sum(os.lstat(f"{top}/{f}").st_size for top, _, files in os.walk(self._target) for f in files)
        print(f"    {count} files, {size / 1e6:.1f} MB in {self._target}")
        components = [item for item in done["components"] if item["succeeded"]]
        check(components and len(components) == len(done["components"]), f"{len(components)} components succeeded")
        check(self._farm_now()["transfers"] > before, "the farm went on with its transfers meanwhile")

    def _destroy(self) -> None:
        self._title("A catastrophe: every file of the live farm is overwritten with rubbish")
        victims = 0
        for place in self._places:
            for top, _, files in os.walk(place):
                victims += sum(destroy(f"{top}/{name}") for name in files)
        self._stage.wait("the farm to notice the damage", lambda: self._farm_now().get("state") == "damaged")
        check(victims > 5, f"{victims} files are destroyed, and the farm is {self._farm_now()['state']}")

    def _restore(self) -> None:
        self._title("Restore: the writers let go, the files come back, the writers take over")
        self._stage.shadowset("restore", self._target, show_progress=True)
        self._stage.wait("the farm to run again", lambda: self._farm_now().get("state") == "running")
        before = self._farm_now()["transfers"]
        self._stage.wait("fifty transfers after the restore", lambda: self._farm_now()["transfers"] > before + 50)
        check(True, f"the farm runs again; {self._farm_now()['transfers'] - before} transfers since the restore")

    def _prove(self) -> None:
        self._title("Proof: the farm is stopped and judged")
        assert self._farm is not None
        end(self._farm)
        check(self._farm.returncode == 0, "the farm ended in good order")
        self._check_farm(self._places)

    def _take_down(self) -> None:
        self._title("Everything is taken down")
        copies = self._stage.shadowset("list")
        check(not copies, "no shadow copy is left over")

    # ---- helpers ----

    def _farm_now(self) -> dict[str, Any]:
        """The farm's last line about itself."""
        if self._farm is not None and self._farm.poll() is not None:
            raise StageError(f"the farm ended with exit status {self._farm.returncode}")
        with open(self._farm_lines, "rb") as file:
            lines = file.read().split(b"\n")[:-1]
        value: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return value

    def _check_farm(self, places: list[str], where: str = "in the live farm") -> None:
        started = time.monotonic()
        text = self._stage.run(*module("shadowset.writers.farm.main"), "check", *places, "--json")
        report = json.loads(text)
        check(
            report["sound"],
            f"no money is lost {where}: {report['money']} of {report['expected_money']}; index and documents agree: "
            f"{report['indexed']} of {report['documents']} ({(time.monotonic() - started) * 1000:.0f} ms to check)",
        )
