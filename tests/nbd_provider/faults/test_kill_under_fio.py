"""SIGKILL of the provider again and again under fio's verified load: live blocks are whole, copies stay exact."""

from __future__ import annotations

import hashlib
import math
import os
import random
import subprocess
import time
from typing import Any

import pytest

from shadowset.nbd_provider.store.rows import list_copies
from shadowset.vss import provider_protocol as m

SIZE = 8 << 20
KEPT = 6
LAYOUT = ["--bs=4096", f"--size={SIZE}", "--verify=crc32c", "--thread", "--minimal"]


def fio(provider: Any, *options: str) -> subprocess.Popen[bytes]:
    """fio's blocks carry a checksum of themselves, so each one can be checked whichever write it comes from."""
    command = ["fio", "--name=load", "--ioengine=nbd", f"--uri={provider.uri}", *LAYOUT, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=provider.directory)


def finish(process: subprocess.Popen[bytes]) -> None:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output.decode()


def digest(provider: Any, copy: str) -> str:
    return hashlib.sha256(provider.content(copy)).hexdigest()


def check(provider: Any, expected: dict[str, str]) -> None:
    finish(fio(provider, "--rw=read", "--iodepth=8"))
    for copy, value in expected.items():
        assert digest(provider, copy) == value, f"copy {copy} has changed"


def wait_for_writes(provider: Any, before: int) -> None:
    """On a busy machine fio takes its time to begin."""
    deadline = time.monotonic() + 30
    while os.stat(provider.origin).st_mtime_ns == before:
        assert time.monotonic() < deadline, "the load writes nothing"
        time.sleep(0.01)


def play_round(provider: Any, expected: dict[str, str], number: int, chance: random.Random) -> None:
    before = os.stat(provider.origin).st_mtime_ns
    load = fio(
        provider, "--rw=randwrite", "--iodepth=16", "--do_verify=0", "--time_based", "--runtime=60",
        "--norandommap", f"--randseed={number}",
    )  # fmt: skip
    try:
        wait_for_writes(provider, before)
        time.sleep(chance.uniform(0, 0.3))
        control = provider.control()
        for _ in range(chance.choice([1, 1, 2])):
            copy = control.snapshot(persistent=chance.random() < 0.5)
            expected[copy] = digest(provider, copy)
        time.sleep(chance.uniform(0, 0.2))
        while len(expected) > KEPT:
            copy = chance.choice(list(expected))
            control.value(m.Delete, copy_id=copy)
            del expected[copy]
        time.sleep(chance.uniform(0, 0.02))
        provider.kill()
        control.close()
        load.wait(30)
    finally:
        load.kill()
        load.communicate()


@pytest.mark.vss(94)
@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("wanted", "seconds"), [(20, 30), pytest.param(200, math.inf, marks=pytest.mark.long)])
def test_kill_under_fio(
    provider: Any, tools: Any, long: int, figures: list[str], wanted: float, seconds: float
) -> None:
    """``wanted`` rounds, or as many as there is time for."""
    tools("fio")
    engines = subprocess.run(["fio", "--enghelp"], capture_output=True, text=True, check=False).stdout
    if "nbd" not in engines.split():
        pytest.skip("not there: fio's nbd engine")
    assert provider.stop() == 0
    provider.size = SIZE
    with open(provider.origin, "wb") as file:
        file.truncate(SIZE)
    subprocess.run(["rm", "-r", provider.storage], check=True)
    provider.start()
    finish(fio(provider, "--rw=write", "--iodepth=8", "--do_verify=0"))
    expected: dict[str, str] = {}
    chance = random.Random(None if long else 17)
    if long:
        wanted, seconds = math.inf, long * 60
    rounds, end = 0, time.monotonic() + seconds
    while rounds < wanted and time.monotonic() < end:
        rounds += 1
        play_round(provider, expected, rounds, chance)
        provider.start()
        check(provider, expected)
    assert len(set(expected.values())) > 1, "the load wrote nothing between the copies"
    with open(provider.origin, "r+b") as file:
        file.seek(SIZE // 2 + 100)
        file.write(b"bitten")
    assert fio(provider, "--rw=read", "--iodepth=8").wait(60) != 0, "fio does not see a wrong block"
    assert {str(entry.copy_id) for entry in list_copies(provider.storage)} == set(expected)
    assert provider.stop() == 0
    figures.append(f"{rounds} kills under fio's verified load, {len(expected)} copies at the end")
    assert rounds >= 5
