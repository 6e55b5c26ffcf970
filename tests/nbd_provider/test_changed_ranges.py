"""What changed, by the command and in pieces, against a comparison of the bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider import changes_command as module
from shadowset.requester.delta import whole_delta
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code, VssError

CHUNK = 16 * 1024


def differing(before: bytes, after: bytes) -> set[int]:
    return {at // CHUNK for at in range(0, len(before), CHUNK) if before[at : at + CHUNK] != after[at : at + CHUNK]}


def chunks(ranges: list[tuple[int, int]]) -> set[int]:
    return {chunk for offset, length in ranges for chunk in range(offset // CHUNK, -(-(offset + length) // CHUNK))}


@pytest.fixture
def history(provider: Any, nbd_module: Any, random_image: bytes) -> tuple[Any, list[str]]:
    """A provider, and three copies with writes between and after them."""
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    control, chance, copies = provider.control(), random.Random(7), []
    for _ in range(3):
        for _ in range(12):
            client.pwrite(os.urandom(30000), chance.randrange(provider.size - 30000))
        copies.append(control.snapshot())
    client.pwrite(os.urandom(512), provider.size - 512)
    client.flush()
    return provider, copies


def ask(provider: Any, *arguments: str, status: int = 0) -> Any:
    """Run ``shadowset-provider changes``; what it prints."""
    command = [sys.executable, "-m", "shadowset.nbd_provider.main", "changes", provider.storage, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


@pytest.mark.vss(104)
def test_the_command_tells_what_changed(history: tuple[Any, list[str]]) -> None:
    provider, copies = history
    now = Path(provider.origin).read_bytes()
    for index, since in enumerate(copies):
        for until in [*copies[index + 1 :], ""]:
            told = ask(provider, since, *([until] if until else []))
            expected = differing(provider.content(since), provider.content(until) if until else now)
            assert chunks([tuple(each) for each in told["ranges"]]) == expected
            assert (told["block_size"], told["size"], told["end"]) == (CHUNK, provider.size, provider.size)
    for arguments, code in (
        ((copies[1], copies[0]), Code.E_INVALIDARG),
        ((copies[0], f"--offset={provider.size + 1}"), Code.E_INVALIDARG),
        ((str(uuid4()),), Code.VSS_E_OBJECT_NOT_FOUND),
    ):
        assert ask(provider, *arguments, status=1)["code"] == code
    provider.control().value(m.Delete, copy_id=copies[0])
    lost = ask(provider, copies[0], status=1)
    assert lost["code"] == Code.VSS_E_OBJECT_NOT_FOUND and "full backup" in lost["message"]
    provider.storage += "/nowhere"
    assert ask(provider, copies[1], status=1)["code"] == Code.VSS_E_UNEXPECTED


@pytest.mark.parametrize(("step", "most", "seconds"), [(1, 65536, 5.0), (3, 2, 5.0), (7, 65536, 0.0)])
def test_pieces_add_up_to_the_whole(
    history: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch, step: int, most: int, seconds: float
) -> None:
    provider, copies = history
    since, until = UUID(copies[0]), UUID(copies[2])
    at_once = module.changed_ranges(provider.storage, since, until, 0)
    monkeypatch.setattr(module, "STEP_CHUNKS", step)
    monkeypatch.setattr(module, "MAX_RANGES", most)
    monkeypatch.setattr(module, "MAX_SECONDS", seconds)
    asked = []

    def piece(offset: int) -> m.ChangedRanges:
        asked.append(offset)
        return module.changed_ranges(provider.storage, since, until, offset)

    assert whole_delta(piece) == at_once
    assert (len(asked) > 1) == (most == 2 or not seconds)


def test_a_copy_that_goes_meanwhile_makes_the_answer_unknown(
    history: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, copies = history
    control = provider.control()
    monkeypatch.setattr(module, "STEP_CHUNKS", 1)
    monkeypatch.setattr(module, "MAX_SECONDS", 0.0)

    def piece(offset: int) -> m.ChangedRanges:
        if offset == 5 * CHUNK:
            control.value(m.Delete, copy_id=copies[0])
        return module.changed_ranges(provider.storage, UUID(copies[0]), UUID(copies[2]), offset)

    with pytest.raises(VssError, match="full backup") as lost:
        whole_delta(piece)
    assert lost.value.code == Code.VSS_E_OBJECT_NOT_FOUND
