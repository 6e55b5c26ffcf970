"""Volumes of a coordinator, which starts their providers, attaches them, and mends both by itself."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from typing import Any

from lane import Volume, fork, wait_until

PLACES = {"RUNTIME": "/run/shadowset", "STATE": "/mnt/state", "CONFIG": "/mnt/etc"}
LOG = "/run/coordinator.log"


def start_coordinator() -> int:
    """Its process; returns when it answers."""
    for name, place in PLACES.items():
        os.environ[f"SHADOWSET_{name}_DIR"] = place
        os.makedirs(place, exist_ok=True)
    from shadowset.daemon.main import main

    pid = fork(lambda: main([]), LOG)
    wait_until(lambda: os.path.exists("/run/shadowset/requester.sock"), "the coordinator")
    return pid


def shadowset(*arguments: str) -> Any:
    """What the command line answers, in this process."""
    from shadowset.requester.cli import main

    told = io.BytesIO()
    with io.TextIOWrapper(told, write_through=True) as out, contextlib.redirect_stdout(out):
        status = main([*arguments, "--json"])
        text = told.getvalue().decode()
    assert not status, (arguments, text)
    return json.loads(text or "null")


class Supervised(Volume):
    """As ``Volume``, but for the coordinator."""

    def __init__(self, name: str, origin: str, storage: str) -> None:
        super().__init__(name, origin, storage)
        self._sets: dict[str, str] = {}
        self.nbd = f"/run/shadowset/volumes/{name}/nbd.sock"
        self.control_socket = f"/run/shadowset/volumes/{name}/control.sock"

    def start(self) -> None:
        shadowset("volume", "add", self.name, self.origin, "--storage", self.storage)

    def attach(self, *options: str) -> None:
        self.device = shadowset("volume", "attach", self.name, *options)["device"]

    def snapshot(self, persistent: bool) -> str:
        """Of a set of its own; ``sums`` has what it shows now, for only the coordinator freezes here."""
        record = shadowset("create", self.name, "--no-writers", *(["--persistent"] if persistent else []))
        copy = str(record["snapshots"][0]["snapshot_id"])
        self._sets[copy] = record["set_id"]
        self.sums[copy] = self.read_copy(copy)
        return copy

    def delete(self, copy: str) -> None:
        shadowset("delete", self._sets.pop(copy))
        del self.sums[copy]

    def kill(self) -> None:
        self.pid = self.describe()["pid"]
        os.kill(self.pid, signal.SIGKILL)

    def revive(self) -> None:
        """Nothing but waiting."""
        wait_until(self._is_back, "the coordinator to start the provider again")
        self.served_at = time.monotonic()

    def _is_back(self) -> bool:
        try:
            return bool(self.describe()["pid"] != self.pid)
        except OSError:
            return False

    def hand_over(self) -> None:
        shadowset("volume", "handover", self.name)

    def put_away(self) -> None:
        self.unmount()
        self.check_file_system()
        shadowset("volume", "detach", self.name)
