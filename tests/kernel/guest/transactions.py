"""Inside the guest: pgbench on ext4, on a plain disk, beneath dm-snapshot, and on a protected volume.

Arguments: rounds, and seconds of each run. In a round each device has a run without copies and one while copies are
made all the time, of which the newest two stay. Prints a JSON object: transactions per second of each run, and copies.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from uuid import uuid4

from lane import MIB, Volume, fork, loop_device, run, step, wait, zeros

from shadowset.vss import provider_protocol as m

SIZE = 128 * MIB
SECTORS = SIZE // 512
COW = 96 * MIB // 512
KEPT = 2
BETWEEN_S = 0.5
BIN = "/usr/lib/postgresql"


def postgres(*command: str) -> str:
    """As the database's own user, who may not be root."""
    version = sorted(os.listdir(BIN), key=int)[-1]
    return run("runuser", "-u", "postgres", "--", f"{BIN}/{version}/bin/{command[0]}", *command[1:])


class Cluster:
    """A small PostgreSQL cluster on a mounted file system: a copy of the first one, as that takes long to make."""

    def __init__(self, place: str, model: Cluster | None = None) -> None:
        self._data, self._socket = f"{place}/data", "/run/postgres"
        if model is not None:
            run("cp", "-a", model._data, self._data)
            return
        os.makedirs(self._socket, exist_ok=True)
        run("chown", "postgres:", place, self._socket)
        postgres("initdb", "--no-sync", "--auth=trust", "--wal-segsize=1", "-D", self._data)
        self.start()
        postgres("createdb", "-h", self._socket, "bench")
        self._pgbench("-i", "-q", "-s", "1")
        self.stop()

    def start(self) -> None:
        options = f"-k {self._socket} -c listen_addresses= -c shared_buffers=16MB -c max_wal_size=16MB"
        postgres("pg_ctl", "start", "-w", "-D", self._data, "-l", f"{self._data}/log", "-o", options)

    def stop(self) -> None:
        postgres("pg_ctl", "stop", "-w", "-m", "fast", "-D", self._data)

    def _pgbench(self, *options: str) -> str:
        return postgres("pgbench", "-h", self._socket, *options, "bench")

    def transactions(self, seconds: int) -> float:
        told = self._pgbench("-c", "2", "-n", "-T", str(seconds))
        found = re.search(r"tps = ([0-9.]+)", told)
        assert found, told
        return float(found[1])


def disk(name: str, size: int) -> str:
    """In memory: what is compared is what lies above it."""
    return loop_device(zeros(f"/mnt/{name}.disk", size))


class DmSnapshot:
    """The disk beneath snapshot-origin; snapshots have slices of another disk."""

    def __init__(self, disk: str, cow: str) -> None:
        self._disk, self.device = disk, "/dev/mapper/watched"
        run("dmsetup", "create", "watched", "--table", f"0 {SECTORS} snapshot-origin {disk}")
        for slot in range(KEPT + 1):
            run("dmsetup", "create", f"cow{slot}", "--table", f"0 {COW} linear {cow} {slot * COW}")
        run("dmsetup", "mknodes")
        self._there: list[int] = []

    def cut(self, number: int) -> None:
        slot = number % (KEPT + 1)
        with open(f"/dev/mapper/cow{slot}", "r+b", buffering=0) as file:
            file.write(bytes(65536))
            os.fsync(file.fileno())
        run("dmsetup", "suspend", "watched")
        try:
            table = f"0 {SECTORS} snapshot {self._disk} /dev/mapper/cow{slot} P 32"
            run("dmsetup", "create", f"copy{slot}", "--table", table)
            self._there.append(slot)
            if len(self._there) > KEPT:
                run("dmsetup", "remove", f"copy{self._there.pop(0)}")
        finally:
            run("dmsetup", "resume", "watched")

    def drop(self) -> None:
        run("dmsetup", "suspend", "watched")
        while self._there:
            run("dmsetup", "remove", f"copy{self._there.pop(0)}")
        run("dmsetup", "resume", "watched")


class Protected:
    """A volume of ours; the shadow storage has a disk of its own."""

    def __init__(self, disk: str, below: str) -> None:
        run("mkfs.ext4", "-q", below)
        os.makedirs("/mnt/below", exist_ok=True)
        run("mount", below, "/mnt/below")
        self.volume = Volume("one", disk, "/mnt/below/storage")
        self.volume.start()
        self.volume.attach()
        self.device = self.volume.device
        self._there: list[str] = []

    def cut(self, number: int) -> None:
        copy = str(uuid4())
        with self.volume.frozen():
            self.volume.cut(copy, persistent=True)
        self.volume.control(m.Finish(1, copy))
        self._there.append(copy)
        if len(self._there) > KEPT:
            self.volume.control(m.Delete(1, self._there.pop(0)))

    def drop(self) -> None:
        while self._there:
            self.volume.control(m.Delete(1, self._there.pop(0)))


class Loop:
    """Copies without end, made by a process of its own."""

    def __init__(self, device: DmSnapshot | Protected) -> None:
        self._device = device
        self._counted = "/run/copies"
        with open(self._counted, "wb"):
            pass
        self._pid = fork(self._run)

    def _run(self) -> None:
        ended = False

        def end(*_: object) -> None:
            nonlocal ended
            ended = True

        signal.signal(signal.SIGTERM, end)
        number = 0
        while not ended:
            self._device.cut(number)
            number += 1
            with open(self._counted, "ab") as file:
                file.write(b".")
            time.sleep(BETWEEN_S)
        self._device.drop()

    def end(self) -> int:
        """How many it made."""
        os.kill(self._pid, signal.SIGTERM)
        assert wait(self._pid) == 0, "copies could not be made"
        return os.path.getsize(self._counted)


def measure(cluster: Cluster, device: DmSnapshot | Protected | None, seconds: int) -> dict[str, float]:
    """Transactions per second without copies, with copies, and the number of copies."""
    cluster.start()
    try:
        without = cluster.transactions(seconds)
        if device is None:
            return {"without": without}
        copies = Loop(device)
        try:
            beside = cluster.transactions(seconds)
        finally:
            count = copies.end()
    finally:
        cluster.stop()
    return {"without": without, "with": beside, "copies": count}


def everything() -> None:
    rounds, seconds = int(sys.argv[1]), int(sys.argv[2])
    os.mkdir("/mnt/model")
    model = Cluster("/mnt/model")
    step("the cluster is made")
    watched = DmSnapshot(disk("watched", SIZE), disk("cow", COW * 512 * (KEPT + 1)))
    ours = Protected(disk("protected", SIZE), disk("below", 2 * SIZE))
    places = {
        "plain": (disk("plain", SIZE), None),
        "dm-snapshot": (watched.device, watched),
        "shadowset": (ours.device, ours),
    }
    clusters: dict[str, Cluster] = {}
    for name, (device, _) in places.items():
        place = ours.volume.place if name == "shadowset" else f"/mnt/{name}"
        os.makedirs(place)
        run("mkfs.ext4", "-q", device)
        run("mount", device, place)
        clusters[name] = Cluster(place, model)
        step(f"{name} has a cluster")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in clusters}
    for number in range(rounds):
        for name in list(clusters)[:: -1 if number % 2 else 1]:
            results[name].append(measure(clusters[name], places[name][1], seconds))
            step(f"{name}: {results[name][-1]}")
    print("results: " + json.dumps(results))


if __name__ == "__main__":
    everything()
    step("all is well")
