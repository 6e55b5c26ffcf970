"""Storage that is damaged when it is opened: the volume is served, and every copy is exact, or lost and told."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider import places
from shadowset.nbd_provider.main import main
from shadowset.nbd_provider.store import aside, check, layout, recovery
from shadowset.nbd_provider.store.files import Segment
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import VssError

CHUNK = 4096
SIZE = 1024 * CHUNK
KEPT, NEWER, FLEETING = UUID(int=1), UUID(int=2), UUID(int=3)


class Lab:
    """A storage with two persistent copies and an auto-release one, what they hold, and readers of them."""

    def __init__(self, directory: str) -> None:
        self.origin, self.storage = f"{directory}/origin", f"{directory}/storage"
        Path(self.origin).write_bytes(os.urandom(SIZE))
        self.fd = os.open(self.origin, os.O_RDWR)
        self.cuts: dict[UUID, bytes] = {}
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)
        for copy in (KEPT, NEWER, FLEETING):
            self.cut(copy, copy != FLEETING)
            self.overwrite(5, 900, copy.int)
        self.readers = {copy: self.reader(copy) for copy in self.cuts}

    @property
    def head(self) -> str:
        return f"{self.storage}/head"

    @property
    def segment(self) -> str:
        return f"{self.storage}/{layout.segment_name(0)}"

    @property
    def content(self) -> bytes:
        return os.pread(self.fd, SIZE, 0)

    def reader(self, copy: UUID) -> CopyReader:
        return CopyReader(self.storage, self.origin, copy)

    def cut(self, copy: UUID, persistent: bool) -> None:
        self.cuts[copy] = self.content
        self.store.commit(copy, UUID(int=9), 1, persistent)
        self.store.finish(copy)

    def overwrite(self, *chunks: int) -> None:
        for chunk in chunks:
            self.store.prepare_write([(chunk * CHUNK, CHUNK)])
            os.pwrite(self.fd, os.urandom(CHUNK), chunk * CHUNK)

    def end(self, clean: bool) -> None:
        """Readers stay, and a provider that was killed leaves the storage as it is."""
        self.store.close(clean=clean)

    def open(self) -> None:
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)

    @property
    def lost(self) -> dict[str, str]:
        """Copies that were told as lost, with the cause."""
        return {event.copy_id: event.cause for event in self.store.room.events if event.kind == "copy-lost"}

    def look(self, *living: UUID) -> None:
        """The copies that live are exact to everybody; of the others nobody gets a byte."""
        assert {entry.copy_id for entry in list_copies(self.storage)} == set(living)
        for copy, reader in self.readers.items():
            if copy in living:
                fresh = self.reader(copy)
                assert reader.read(0, SIZE) == fresh.read(0, SIZE) == self.cuts[copy]
                fresh.close()
                continue
            with pytest.raises(OSError, match=r"no longer exists|is not in|ends before its word"):
                reader.read(0, SIZE)
        assert not check._Check(self.storage, None).run().damages


@pytest.fixture
def lab(workdir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(layout, "SEGMENT_SLOTS", 256)
    monkeypatch.setattr(layout, "SEGMENT_DATA", 256 * layout.SLOT_RECORD_SIZE)
    logging.disable(logging.CRITICAL)
    lab = Lab(workdir)
    yield lab
    logging.disable(logging.NOTSET)
    for reader in lab.readers.values():
        reader.close()
    os.close(lab.fd)


def cut_off(lab: Lab) -> None:
    os.truncate(lab.head, layout.PAGE)


def remove(lab: Lab) -> None:
    os.unlink(lab.head)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("harm", [cut_off, remove])
def test_a_damaged_head_costs_auto_release_copies_only(lab: Lab, harm: Any, clean: bool) -> None:
    """It is made anew from what was durable, and who has the old one open goes on with the new one."""
    lab.end(clean)
    harm(lab)
    lab.open()
    assert lab.lost == {str(FLEETING): "damaged"}
    lab.look(KEPT, NEWER)
    lab.overwrite(5, 6, 900, 901)
    lab.look(KEPT, NEWER)
    lab.cut(UUID(int=4), True)
    lab.overwrite(6, 7)
    lab.end(clean)
    lab.open()
    lab.look(KEPT, NEWER, UUID(int=4))
    lab.end(True)


@pytest.mark.parametrize(
    "step", ["_lose_living", "_tell_readers", "replace_table", "mark_left", "_fill_head", "put_in_place"]
)
@pytest.mark.parametrize("harm", [cut_off, remove])
def test_a_kill_while_it_is_made_anew(lab: Lab, harm: Any, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.end(False)
    harm(lab)
    for late in (False, True):
        with monkeypatch.context() as patches:
            real = getattr(recovery, step)

            def killed(*arguments: Any, real: Any = real, late: bool = late, **rest: Any) -> None:
                if late:
                    real(*arguments, **rest)
                raise KeyboardInterrupt

            patches.setattr(recovery, step, killed)
            if step == "put_in_place" and late:
                break
            with pytest.raises(KeyboardInterrupt):
                lab.open()
    lab.open()
    lab.overwrite(5, 6, 901)
    lab.look(KEPT, NEWER)
    assert not os.path.exists(f"{lab.storage}/table.left")
    lab.end(True)


def test_slots_that_are_damaged_too_cost_their_copies(lab: Lab) -> None:
    lab.end(True)
    os.unlink(lab.head)
    with open(lab.segment, "r+b") as file:  # the third slot: chunk 1, which only the oldest copy keeps
        file.seek(layout.SEGMENT_DATA + 2 * CHUNK)
        file.write(b"x")
    lab.open()
    assert lab.lost == {str(FLEETING): "damaged", str(KEPT): "damaged"}
    assert list_copies(lab.storage)[0].copy_id == NEWER and lab.readers[NEWER].read(0, SIZE) == lab.cuts[NEWER]
    lab.end(True)


def test_a_damaged_slot_of_the_last_batch_was_not_torn(lab: Lab) -> None:
    """No power was lost, so its data was there."""
    lab.cut(UUID(int=4), True)
    lab.overwrite(5)
    lab.end(True)
    os.unlink(lab.head)
    with open(lab.segment, "r+b") as file:
        file.seek(layout.SEGMENT_DATA + (lab.store.next_slot - 1) * CHUNK)
        file.write(b"x")
    lab.open()
    assert lab.lost == {str(FLEETING): "damaged", str(UUID(int=4)): "damaged"}
    lab.end(True)


def test_nobody_opens_the_old_head_any_more_while_it_is_made_anew(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.end(True)
    cut_off(lab)
    real = recovery._fill_head

    def look(store: ShadowStore, torn: bool) -> None:
        with pytest.raises(FileNotFoundError):
            lab.reader(KEPT)
        real(store, torn)

    monkeypatch.setattr(recovery, "_fill_head", look)
    lab.open()
    lab.end(True)


@pytest.mark.parametrize("harm", ["missing", "unreadable"])
def test_slots_that_are_gone_cost_all_copies(lab: Lab, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.end(False)
    os.unlink(lab.head)
    if harm == "missing":
        shutil.rmtree(f"{lab.storage}/segments")

    def unreadable(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patches:
        if harm == "unreadable":
            patches.setattr(Segment, "record_page", unreadable)
            patches.setattr(Segment, "records_end", unreadable)
        lab.open()
    assert lab.lost == {str(copy): "damaged" for copy in (KEPT, NEWER, FLEETING)}
    lab.look()
    lab.cut(UUID(int=4), True)
    lab.overwrite(5, 6)
    lab.look(UUID(int=4))
    lab.end(True)


@pytest.mark.parametrize("harm", ["head", "segments"])
def test_a_power_loss_on_top_of_it(lab: Lab, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.end(False)
    os.unlink(lab.head) if harm == "head" else shutil.rmtree(f"{lab.storage}/segments")
    monkeypatch.setattr("shadowset.nbd_provider.store.writer.session_id", lambda _: UUID(int=77))
    for reader in lab.readers.values():
        reader.close()
    lab.readers.clear()
    lab.open()
    if harm == "segments":
        assert lab.lost == {str(copy): "damaged" for copy in (KEPT, NEWER)}
        lab.look()
    else:
        lab.readers = {copy: lab.reader(copy) for copy in (KEPT, NEWER)}
        lab.look(KEPT, NEWER)
    lab.end(True)


@pytest.mark.parametrize("size", [0, 4096, 8192, 8192 + 3 * CHUNK])
@pytest.mark.parametrize("clean", [False, True])
def test_what_a_segment_lacks_stays_an_error(lab: Lab, size: int, clean: bool) -> None:
    """Slots that come later neither take the place of those that are gone nor make them zeros."""
    lab.end(clean)
    os.truncate(lab.segment, size)
    for _ in range(2):
        lab.open()
        lab.overwrite(*range(20, 40), 900)
        for copy in (KEPT, NEWER, FLEETING):
            fresh = lab.reader(copy)
            for chunk in range(1024):
                try:
                    content = fresh.read(chunk * CHUNK, CHUNK)
                except (OSError, EOFError):
                    assert chunk in (1, 2, 3, 5, 900)
                else:
                    assert content == lab.cuts[copy][chunk * CHUNK :][:CHUNK], (copy, chunk)
            fresh.close()
        lab.end(clean)


def test_a_damaged_row_costs_its_copy_only(lab: Lab) -> None:
    lab.end(True)
    with open(f"{lab.storage}/table", "r+b") as table:
        table.seek(layout.entry_offset(1) + 5)
        table.write(b"\xff")
    lab.open()
    assert [(event.copy_id, event.cause) for event in lab.store.room.events] == [("", "damaged")]
    assert "row 1 is lost" in lab.store.room.events[0].message
    lab.overwrite(7, 900)
    lab.look(KEPT, FLEETING)
    lab.end(True)
    lab.open()
    assert not lab.store.room.events, "it was told"
    lab.end(True)


def test_a_table_that_was_cut_off(lab: Lab) -> None:
    lab.end(True)
    os.truncate(f"{lab.storage}/table", layout.entry_offset(1) + 40)
    lab.open()
    causes = [event.cause for event in lab.store.room.events]
    assert causes == ["damaged"] * 2 and "the table was cut off" in lab.store.room.events[0].message
    lab.overwrite(7, 900)
    lab.look(KEPT)
    lab.cut(UUID(int=4), True)
    lab.overwrite(7, 900)
    lab.look(KEPT, UUID(int=4))
    lab.end(True)


@pytest.mark.parametrize("harm", ["header", "no table"])
def test_without_a_header_the_next_step_is_told(lab: Lab, harm: str) -> None:
    """Nobody knows the volume, its policy or its copies then, so nothing is decided, and nothing changed."""
    lab.end(True)
    if harm == "header":
        with open(f"{lab.storage}/table", "r+b") as table:
            table.seek(20)
            table.write(b"\xff")
    else:
        os.unlink(f"{lab.storage}/table")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in Path(lab.storage).rglob("*") if path.is_file())
    with pytest.raises(VssError, match=f"{lab.storage}.*table.*'shadowset-provider set-aside {lab.storage} --o"):
        lab.open()
    if harm == "no table":
        with pytest.raises(VssError, match=r"its table is missing; .*'shadowset-provider set-aside"):
            places.require_storage(lab.storage)
    after = sorted((path.name, path.stat().st_mtime_ns) for path in Path(lab.storage).rglob("*") if path.is_file())
    assert before == after
    report = check.check_storage(lab.storage)
    assert [damage.where for damage in report.damages] == ["table"]
    assert main(["set-aside", lab.storage, "--origin", lab.origin]) == 0
    (aside,) = Path(lab.storage).glob("set-aside-*")
    assert Path(f"{aside}/segments/00000000").stat().st_size > layout.SEGMENT_DATA
    assert {path.name for path in aside.iterdir()} >= {"head", "segments"}
    lab.open()
    lab.look()
    lab.cut(UUID(int=4), True)
    lab.overwrite(5, 6)
    lab.look(UUID(int=4))
    lab.end(True)


def test_only_what_cannot_be_opened_is_set_aside(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(storage: str) -> str:
        assert main(["set-aside", storage, "--origin", lab.origin]) == 1
        return capsys.readouterr().err

    assert "in use by another provider" in refused(lab.storage)
    lab.end(True)
    assert "can be read" in refused(lab.storage)
    os.mkdir(f"{lab.storage}.unmounted")
    assert "nothing of it is there; mount" in refused(f"{lab.storage}.unmounted")
    assert not os.listdir(f"{lab.storage}.unmounted")
    lab.open()
    lab.look(KEPT, NEWER, FLEETING)
    lab.end(True)


def test_setting_aside_goes_on_after_a_kill(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.end(True)
    os.truncate(f"{lab.storage}/table", 8)
    for step in ("sync_directory", "create_storage"):
        with monkeypatch.context() as patches:
            patches.setattr(aside, step, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                aside.set_aside(lab.storage, SIZE)
    aside.set_aside(lab.storage, SIZE)
    lab.open()
    lab.look()
    lab.end(True)
