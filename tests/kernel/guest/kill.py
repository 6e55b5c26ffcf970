"""Inside the guest: SIGKILL and handover of providers, at random, under fio's verified load on ext4 and on XFS.

Argument: how many rounds, with one kill and one handover of each provider. Each volume has a load of its own, and a
probe that writes and syncs all the time and measures how long it was kept waiting. After each kill a new provider
starts, and the device gets a fresh connection. With ``coordinator`` as second argument nobody here does anything about
it, as ``shadowsetd`` does.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import time
from itertools import pairwise

from coordinated import Supervised, start_coordinator
from lane import MIB, Volume, figure, fork, spread, step, wait, wait_until, zeros

SIZE = 64 * MIB
KEPT = 3
PROBE = struct.Struct("=dd")


class Loaded:
    """A volume under load."""

    def __init__(self, name: str, fs_type: str, kind: type[Volume]) -> None:
        self.volume = kind(name, zeros(f"/mnt/{name}.origin", SIZE), f"/mnt/{name}.storage")
        self.volume.start()
        self.volume.attach()
        self.volume.make_file_system(fs_type)
        self.volume.mount()
        self.stalls: list[float] = []
        self.parts: list[tuple[float, ...]] = []
        self.handovers: list[float] = []
        self._times = f"/run/{name}.times"
        self._end = f"/run/{name}.end"

    def begin(self) -> None:
        place = self.volume.place
        self._fio = subprocess.Popen(
            ["fio", "--name=load", f"--directory={place}", "--size=8M", "--rw=randwrite", "--bs=4k", "--fsync=8",
             "--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1", "--time_based", "--runtime=3000",
             "--rate_iops=50", "--eta=never", "--output-format=json", f"--output=/run/{self.volume.name}.json"],
            cwd="/run",
        )  # fmt: skip
        self._probe = fork(self._write_and_measure)
        wait_until(lambda: os.path.exists(f"{place}/load.0.0") and self.progress(), "the load to begin")

    def _write_and_measure(self) -> None:
        fd = os.open(f"{self.volume.place}/probe", os.O_RDWR | os.O_CREAT)
        number = 0
        with open(self._times, "ab", buffering=0) as times:
            while not os.path.exists(self._end):
                started = time.monotonic()
                os.pwrite(fd, number.to_bytes(8, "little") * 512, number % 256 * 4096)
                os.fsync(fd)
                times.write(PROBE.pack(started, time.monotonic()))
                number += 1
                time.sleep(0.02)
        for back in range(1, min(number, 256)):
            at = number - back
            assert os.pread(fd, 4096, at % 256 * 4096) == at.to_bytes(8, "little") * 512, "a synced block is not there"

    def progress(self) -> int:
        return os.path.getsize(self._times) if os.path.exists(self._times) else 0

    def longest(self, since: float) -> float:
        """The longest that the probe waited from then on."""
        with open(self._times, "rb") as file:
            waits = [end - begin for begin, end in PROBE.iter_unpack(file.read()) if end > since]
        return max(waits)

    def kill(self) -> None:
        self._killed = time.monotonic()
        self.volume.kill()

    def revive(self) -> None:
        """Start a provider and give the device a connection to it."""
        begun = time.monotonic()
        self.volume.revive()
        self._parts = self._killed, begun, self.volume.served_at, time.monotonic()
        self._before = self.progress()

    def go_on(self) -> None:
        """Wait until the probe's writes go on, and note how long they did not."""
        wait_until(lambda: self.progress() > self._before + 2 * PROBE.size, "writes to go on after the reconnect")
        self.stalls.append(self.longest(self._killed))
        times = *self._parts, self._parts[-1] + max(0.0, self._killed + self.stalls[-1] - self._parts[-1])
        self.parts.append(tuple(later - earlier for earlier, later in pairwise(times)))
        self.volume.check_copies()

    def hand_over(self) -> None:
        """A new process takes the place of the old one, which nobody has to be told."""
        begin = time.monotonic()
        self.volume.hand_over()
        before = self.progress()
        wait_until(lambda: self.progress() > before + 2 * PROBE.size, "writes to go on after the handover")
        self.handovers.append(self.longest(begin))

    def cut(self, number: int) -> None:
        volume = self.volume
        volume.snapshot(persistent=number % 2 == 0)
        if len(volume.sums) > KEPT:
            volume.delete(next(iter(volume.sums)))

    def finish(self) -> str:
        """What fio has written and verified, in words, when all of it was right."""
        with open(self._end, "wb"):
            pass
        self._fio.send_signal(signal.SIGINT)
        assert self._fio.wait(120) in (0, 128), "fio has met an error or a wrong byte"
        assert wait(self._probe) == 0, "the probe has met an error or a wrong byte"
        with open(f"/run/{self.volume.name}.json", encoding="utf-8") as file:
            text = file.read()
        job = json.loads(text[text.index("{") :])["jobs"][0]
        assert job["error"] == 0 and job["write"]["total_ios"] and job["read"]["total_ios"], job
        exact = self.volume.check_copies()
        self.volume.put_away()
        written = f"{job['write']['total_ios']} blocks written, {job['read']['total_ios']} verified"
        return f"{self.volume.fs_type}: {written}, {exact} copies exact"


def play_round(loads: list[Loaded], number: int, chance: random.Random) -> None:
    """Both providers are killed, in some moment of their own after a cut, and both are missing for a while."""
    for load in loads:
        load.cut(number)
        time.sleep(chance.uniform(0, 0.3))
    for load in chance.sample(loads, len(loads)):
        load.kill()
        time.sleep(chance.uniform(0, 0.3))
    for load in loads:
        load.revive()
    for load in loads:
        load.go_on()
    for load in loads:
        load.hand_over()
        load.volume.check_copies()
    stalls = ", ".join(f"{load.stalls[-1]:.2f} s and {load.handovers[-1]:.3f} s" for load in loads)
    step(f"round {number + 1}: kill and handover stalled {stalls}")


def everything() -> None:
    rounds = int(sys.argv[1])
    os.nice(-5)  # there is one processor, and the loads would keep us from it
    chance = random.Random()
    kind = Volume
    if sys.argv[2:] == ["coordinator"]:
        start_coordinator()
        kind = Supervised
    loads = [Loaded("one", "ext4", kind), Loaded("two", "xfs", kind)]
    for load in loads:
        load.begin()
    step("both loads run")
    for number in range(rounds):
        play_round(loads, number, chance)
    for load in loads:
        figure(load.finish())
    count = rounds * len(loads)
    figure(f"{count} kills: stall {spread([stall for load in loads for stall in load.stalls])}")
    parts = [statistics.median(part) for part in zip(*(each for load in loads for each in load.parts), strict=True)]
    told = "left dead {:.2f} s, the provider's start {:.2f}, the device's connection {:.2f}, its first answer {:.2f}"
    figure(f"of a stall, p50: {told.format(*parts)}")
    figure(f"{count} handovers: stall {spread([stall for load in loads for stall in load.handovers])}")


if __name__ == "__main__":
    everything()
    step("all is well")
