"""A shadow storage moves while clients write the volume and others read its copies; kills, cancelling, refusals."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.store.changes import changed_runs
from shadowset.nbd_provider.store.check import check_storage
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code

MIB = 1 << 20


def connected(nbd_module: Any, uri: str) -> Any:
    client = nbd_module.NBD()
    client.connect_uri(uri)
    return client


def with_copies(provider: Any, nbd_module: Any) -> dict[str, bytes]:
    """Copies with writes between them, and what each must hold."""
    client, control, chance = connected(nbd_module, provider.uri), provider.control(), random.Random(4)
    copies = {}
    for number in range(4):
        copies[control.snapshot(persistent=number % 2 == 0)] = Path(provider.origin).read_bytes()
        for _ in range(40):
            client.pwrite(chance.randbytes(chance.randrange(1, 60_000)), chance.randrange(provider.size - 60_000))
    client.shutdown()
    control.close()
    return copies


def wait_for_the_end(control: Any) -> None:
    deadline = time.monotonic() + 120
    while (under_way := control.value(m.Describe)["move"]) is not None:
        assert under_way["phase"] != "stopped", under_way
        assert time.monotonic() < deadline, under_way
        time.sleep(0.02)


class Readers:
    """One reader of each copy, opened now, and what they must read."""

    def __init__(self, provider: Any, copies: dict[str, bytes]) -> None:
        self.copies = copies
        self._provider = provider
        self._readers = {copy: CopyReader(provider.storage, provider.origin, UUID(copy)) for copy in copies}

    def check(self) -> None:
        for copy, expected in self.copies.items():
            fresh = CopyReader(self._provider.storage, self._provider.origin, UUID(copy))
            for reader in (self._readers[copy], fresh):
                assert reader.read(0, len(expected)) == expected, f"copy {copy} is wrong"
            fresh.close()

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


@pytest.mark.vss(103)
def test_a_move_under_load(provider: Any, nbd_module: Any, random_image: bytes, workdir: str) -> None:
    copies, there = with_copies(provider, nbd_module), f"{workdir}/there"
    readers, control = Readers(provider, copies), provider.control()
    exported = {
        copy: connected(nbd_module, f"nbd+unix:///{copy}?socket={path}")
        for path in [provider.export()]
        for copy in copies
    }
    changes = {copy: changed_runs(provider.storage, UUID(copy), UUID(list(copies)[-1])) for copy in list(copies)[:-1]}
    ended = threading.Event()
    errors: list[BaseException] = []

    def write(seed: int) -> None:
        chance, client = random.Random(seed), connected(nbd_module, provider.uri)
        try:
            while not ended.is_set():
                client.pwrite(chance.randbytes(20_000), chance.randrange(provider.size - 20_000))
            client.shutdown()
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for each in writers:
        each.start()
    try:
        answer = control.value(m.Move, storage=there)
        assert (answer["storage"], answer["phase"]) == (there, "copying")
        readers.check()
        wait_for_the_end(control)
        readers.check()
    finally:
        ended.set()
        for each in writers:
            each.join()
    assert not errors and control.value(m.Describe)["storage"] == there
    assert sorted(os.listdir(provider.storage)) == ["lock", "moved"]
    assert [each["event"] for each in control.value(m.ListEvents)["events"]] == ["move-started", "move-finished"]
    for copy, client in exported.items():
        assert client.pread(MIB, 3 * MIB) == copies[copy][3 * MIB : 4 * MIB]
    last = list(copies)[-1]
    for copy, before in changes.items():
        assert changed_runs(provider.storage, UUID(copy), UUID(last)) == before
    latest = control.snapshot()
    assert {str(entry.copy_id) for entry in list_copies(provider.storage)} == {*copies, latest}
    assert provider.stop() == 0
    provider.start()
    assert provider.control().value(m.Describe)["storage"] == there
    readers.check()
    readers.close()
    provider.stop()
    assert check_storage(there, provider.origin).sound and check_storage(provider.storage).storage == there


@pytest.mark.vss(103)
def test_a_move_goes_on_after_its_provider_was_killed(
    provider: Any, nbd_module: Any, random_image: bytes, workdir: str
) -> None:
    copies = with_copies(provider, nbd_module)
    readers = Readers(provider, copies)
    control = provider.control()
    control.value(m.Move, storage=f"{workdir}/there")
    provider.kill()
    readers.check()
    provider.start()
    client = connected(nbd_module, provider.uri)
    client.pwrite(os.urandom(MIB), 5 * MIB)
    readers.check()
    control = provider.control()
    wait_for_the_end(control)
    client.pwrite(os.urandom(MIB), 7 * MIB)
    assert control.value(m.Describe)["storage"] == f"{workdir}/there"
    readers.check()
    readers.close()


def test_what_cannot_be_moved_is_refused(provider: Any, nbd_module: Any, workdir: str) -> None:
    control = provider.control()
    os.mkdir(f"{workdir}/full")
    Path(f"{workdir}/full/file").touch()
    refused = {
        "relative": Code.E_INVALIDARG,
        f"{provider.storage}/inside": Code.E_INVALIDARG,
        workdir: Code.E_INVALIDARG,
        f"{workdir}/no/parent": Code.VSS_E_OBJECT_NOT_FOUND,
        f"{workdir}/full": Code.VSS_E_OBJECT_ALREADY_EXISTS,
        provider.origin: Code.VSS_E_OBJECT_ALREADY_EXISTS,
    }
    for directory, code in refused.items():
        answer = control.call(m.Move, storage=directory)
        assert isinstance(answer, m.Failed) and answer.code == code, answer
    assert control.call(m.CancelMove).code == Code.VSS_E_BAD_STATE
    described = control.value(m.Describe)
    assert described["move"] is None and described["storage"] == provider.storage
    assert control.value(m.ListEvents)["events"] == []


def test_a_cancelled_move_leaves_nothing(provider: Any, nbd_module: Any, random_image: bytes, workdir: str) -> None:
    copies, control = with_copies(provider, nbd_module), provider.control()
    readers = Readers(provider, copies)
    control.value(m.Move, storage=f"{workdir}/there")
    answer = control.call(m.CancelMove)
    if isinstance(answer, m.Failed):  # it was faster
        assert answer.code == Code.VSS_E_BAD_STATE
        wait_for_the_end(control)
        readers.check()
        return
    deadline = time.monotonic() + 60
    while control.value(m.Describe)["move"]["phase"] != "stopped":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    described = control.value(m.Describe)
    assert described["storage"] == provider.storage and "cancelled" in described["move"]["reason"]
    assert not os.path.exists(f"{workdir}/there") and "moving" not in os.listdir(provider.storage)
    readers.check()
    control.value(m.Move, storage=f"{workdir}/there")
    wait_for_the_end(control)
    readers.check()
    readers.close()


def test_by_command(provider: Any, nbd_module: Any, random_image: bytes, workdir: str) -> None:
    copies = with_copies(provider, nbd_module)
    readers = Readers(provider, copies)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shadowset.nbd_provider.main", "move", provider.storage, *arguments]
        command += ["--origin", provider.origin, "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    done = run(f"{workdir}/there")
    assert done.returncode == 1 and "in use" in done.stderr
    provider.stop()
    done = run()
    assert done.returncode == 1 and "name the directory" in done.stderr
    done = run("--cancel")
    assert done.returncode == 1 and "nothing to cancel" in done.stderr
    for directory in ("there", "further"):
        done = run(f"{workdir}/{directory}")
        assert done.returncode == 0 and json.loads(done.stdout) == {"storage": f"{workdir}/{directory}"}, done.stderr
    assert sorted(os.listdir(f"{workdir}/there")) == ["lock", "moved"]
    readers.check()
    done = run(provider.storage)
    assert done.returncode == 0, done.stderr
    readers.check()
    readers.close()
    provider.start()
    assert provider.control().value(m.Describe)["storage"] == provider.storage
