"""The check finds each kind of damage and names the copies that it hits."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider.main import main
from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.check import Report, check_storage
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = 8 * CHUNK
OLD, MIDDLE, NEW = UUID(int=1), UUID(int=2), UUID(int=3)


class Lab:
    """A storage with three copies: chunk 0 has a slot for each, chunk 1 for the newest, chunk 2 for the oldest only."""

    def __init__(self, directory: str) -> None:
        self.origin = f"{directory}/origin"
        self.path = f"{directory}/storage"
        Path(self.origin).write_bytes(os.urandom(SIZE))
        self.fd = os.open(self.origin, os.O_RDWR)
        store = ShadowStore(self.path, self.fd, SIZE, CHUNK)
        for copy, chunks in ((OLD, [0, 2]), (MIDDLE, [0]), (NEW, [0, 1])):
            store.commit(copy, uuid4(), 1, True)
            store.finish(copy)
            for chunk in chunks:
                store.prepare_write([(chunk * CHUNK, CHUNK)])
                os.pwrite(self.fd, os.urandom(CHUNK), chunk * CHUNK)
        store.close()

    def poke(self, name: str, offset: int, data: bytes) -> None:
        with open(f"{self.path}/{name}", "r+b") as file:
            file.seek(offset)
            file.write(data)

    def word(self, name: str, offset: int) -> int:
        with open(f"{self.path}/{name}", "rb") as file:
            file.seek(offset)
            return int.from_bytes(file.read(8), "little")

    def check(self) -> Report:
        return check_storage(self.path, self.origin)


SEGMENT = "segments/00000000"
# slots in order of filling: 0 = (chunk 0, OLD), 1 = (chunk 2, OLD), 2 = (0, MIDDLE), 3 = (0, NEW), 4 = (1, NEW)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def flip(lab: Lab, name: str, offset: int) -> None:
    lab.poke(name, offset, bytes([lab.word(name, offset) & 0xFF ^ 1]))


DAMAGES: dict[str, tuple[Callable[[Lab], None], str, set[UUID]]] = {
    "header": (lambda lab: flip(lab, "table", 17), "checksum of its header", set()),
    "settings": (lambda lab: flip(lab, "table", 129), "checksum of its settings", set()),
    "magic": (lambda lab: lab.poke("table", 0, b"NOTATABL"), "no shadow storage table", set()),
    "row": (lambda lab: flip(lab, "table", layout.entry_offset(1) + 20), "checksum of a table row", set()),
    "row's extra": (lambda lab: flip(lab, "table", layout.entry_offset(1) + 80), "checksum of a table row", set()),
    "short table": (lambda lab: os.truncate(f"{lab.path}/table", 8192), "it has 8192 bytes", set()),
    "short head": (lambda lab: os.truncate(f"{lab.path}/head", 16), "it has 16 bytes", {OLD, MIDDLE, NEW}),
    "no head": (lambda lab: os.unlink(f"{lab.path}/head"), "missing", {OLD, MIDDLE, NEW}),
    "head to an unused slot": (
        lambda lab: lab.poke("head", 0, u64(layout.pack_head(3, 99))),
        "slot 99, which is not used",
        {OLD, MIDDLE, NEW},
    ),
    "head to a missing segment": (
        lambda lab: lab.poke("head", 16, u64(layout.pack_head(1, 9 << 20))),
        "segment 00000009 is not there",
        {OLD, MIDDLE, NEW},
    ),
    "head to another chunk's slot": (
        lambda lab: lab.poke("head", 8, u64(layout.pack_head(1, 1))),
        "record names chunk 2",
        {OLD, MIDDLE, NEW},
    ),
    "head with a future label": (
        lambda lab: lab.poke("head", 8, u64(layout.pack_head(77, 4))),
        "leads to label 77",
        {OLD, MIDDLE, NEW},
    ),
    "head with another label": (
        lambda lab: lab.poke("head", 8, u64(layout.pack_head(2, 4))),
        "whose record has label 3",
        {OLD, MIDDLE, NEW},
    ),
    "head without a slot": (lambda lab: lab.poke("head", 8, u64(3 << 40)), "names no slot", {OLD, MIDDLE, NEW}),
    "cycle": (
        lambda lab: lab.poke(SEGMENT, 32 * 2 + 8, u64(layout.pack_head(3, 3))),
        "leads to label 3, which should be between 1 and 1",
        {OLD},
    ),
    "rising labels": (
        lambda lab: lab.poke(SEGMENT, 32 * 0 + 8, u64(layout.pack_head(2, 2))),
        "which should be between 1 and 0",
        set(),
    ),
    "record of another chunk": (lambda lab: lab.poke(SEGMENT, 32 * 2, u64(5)), "names chunk 5", {OLD, MIDDLE}),
    "data": (lambda lab: flip(lab, SEGMENT, layout.SEGMENT_DATA + 2 * CHUNK + 9), "checksum of its data", {MIDDLE}),
    "newest data": (lambda lab: flip(lab, SEGMENT, layout.SEGMENT_DATA + 4 * CHUNK), "of its data", {OLD, MIDDLE, NEW}),
    "not durable": (
        lambda lab: lab.poke(SEGMENT, 32 * 2 + 24, struct.pack("<II", layout.FLAG_USED, 0)),
        "not durable",
        {MIDDLE},
    ),
    "segment cut in its data": (
        lambda lab: os.truncate(f"{lab.path}/{SEGMENT}", layout.SEGMENT_DATA + 4 * CHUNK + 9),
        "ends before its data",
        {OLD, MIDDLE, NEW},
    ),
    "segment cut in its records": (
        lambda lab: os.truncate(f"{lab.path}/{SEGMENT}", 4096),
        "shorter than",
        {OLD, MIDDLE, NEW},
    ),
    "segment gone": (lambda lab: os.unlink(f"{lab.path}/{SEGMENT}"), "not there", {OLD, MIDDLE, NEW}),
    "segments gone": (lambda lab: rmtree(f"{lab.path}/segments"), "directory is missing", {OLD, MIDDLE, NEW}),
    "strange file": (lambda lab: Path(f"{lab.path}/segments/x").touch(), "no segment has such a name", set()),
    "short origin": (lambda lab: os.truncate(lab.origin, SIZE - 512), "its storage knows", {OLD, MIDDLE, NEW}),
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    directory = tempfile.mkdtemp(prefix="ss-check-")
    made = Lab(directory)
    yield made
    os.close(made.fd)
    rmtree(directory)


def test_a_sound_storage(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    report = lab.check()
    assert (report.damages, report.notes) == ([], [])
    assert (report.linked, report.unlinked, report.given_back, report.verified) == (5, 0, 0, 5)
    assert report.copies == [OLD, MIDDLE, NEW]
    assert main(["check", lab.path]) == 0
    assert "sound" in capsys.readouterr().out


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_nothing_is_changed(lab: Lab, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, sentence, copies = DAMAGES[name]
    damage(lab)
    before = {path: path.read_bytes() for path in Path(lab.path).rglob("*") if path.is_file()}
    report = lab.check()
    assert any(sentence in found.what for found in report.damages), report.damages
    assert {copy for found in report.damages for copy in found.copies} == copies
    assert main(["check", lab.path, "--origin", lab.origin, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["sound"] and any(sentence in found["what"] for found in told["damages"])
    assert before == {path: path.read_bytes() for path in Path(lab.path).rglob("*") if path.is_file()}


def test_a_slot_in_two_chains(lab: Lab) -> None:
    lab.poke(SEGMENT, 32 * 4 + 8, u64(layout.pack_head(2, 2)))
    [found] = lab.check().damages
    assert "slot 2, which another chain has already" in found.what and set(found.copies) == {OLD, MIDDLE}


def test_unlinked_slots_are_counted_and_are_no_damage(lab: Lab) -> None:
    lab.poke("head", 8, u64(0))
    report = lab.check()
    assert report.sound and (report.linked, report.unlinked) == (4, 1)


def test_what_lies_beyond_a_copy_does_not_hit_it(lab: Lab) -> None:
    """A copy from before the volume grew was made persistent since, and slots behind its end are not durable."""
    grown = SIZE + 2 * CHUNK
    os.truncate(lab.origin, grown)
    store = ShadowStore(lab.path, lab.fd, grown)
    for copy in (OLD, MIDDLE, NEW):
        store.delete(copy)
    store.commit(OLD, uuid4(), 1, False)
    small = store.table.find(OLD)
    store.table.change(small, size=SIZE)
    store.commit(NEW, uuid4(), 1, False)
    store.prepare_write([(SIZE + CHUNK, CHUNK)])
    store.make_persistent(small)
    store.close()
    assert lab.check().sound
    for size, hit in ((SIZE, (NEW,)), (grown, (OLD, NEW))):
        store = ShadowStore(lab.path, lab.fd, grown)
        store.table.change(store.table.find(OLD), size=size)
        slot = layout.head_slot(store.head.view[SIZE // CHUNK + 1])
        store.segments.set_flags(slot, layout.FLAG_USED | layout.FLAG_DURABLE | 77 << 32)
        store.close()
        [damage] = lab.check().damages
        assert "checksum" in damage.what and damage.copies == hit


def test_what_cannot_be_checked(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    store = ShadowStore(lab.path, lab.fd, SIZE, CHUNK)
    assert main(["check", lab.path]) == 2
    assert "in use by a provider" in capsys.readouterr().err
    store.close()
    assert main(["check", f"{lab.path}/nowhere"]) == 2
    assert "cannot be checked" in capsys.readouterr().err
    os.unlink(f"{lab.path}/table")
    assert main(["check", lab.path]) == 1
    assert "table" in capsys.readouterr().out


def test_a_storage_after_power_loss_is_checked_without_head(lab: Lab) -> None:
    store = ShadowStore(lab.path, lab.fd, SIZE, CHUNK)
    store.close()
    with open(f"{lab.path}/table", "r+b") as file:
        header = layout.Header.unpack(file.read(layout.PAGE))
        header.clean, header.boot_id = False, uuid4()
        file.seek(0)
        file.write(header.pack())
    lab.poke("head", 0, u64(layout.pack_head(3, 99)))
    report = lab.check()
    assert report.sound and "power was lost" in report.notes[0]
