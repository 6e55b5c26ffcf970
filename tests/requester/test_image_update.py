"""Bringing an image up to date when reading or writing fails on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shadowset.requester.delta import whole_delta
from shadowset.requester.image_update import check_image, update_image
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import ChangedRanges

BLOCK = 4096


@pytest.fixture
def old_and_new(tmp_path: Path) -> tuple[Path, Path]:
    """An image of eight blocks, and a later state that differs in blocks 1, 2 and 5 and has two blocks more."""
    old = os.urandom(8 * BLOCK)
    new = bytearray(old + os.urandom(2 * BLOCK))
    for block in (1, 2, 5):
        new[block * BLOCK : (block + 1) * BLOCK] = os.urandom(BLOCK)
    (tmp_path / "image").write_bytes(old)
    (tmp_path / "device").write_bytes(new)
    return tmp_path / "image", tmp_path / "device"


DELTA = ChangedRanges(BLOCK, 10 * BLOCK, 10 * BLOCK, [(BLOCK, 2 * BLOCK), (5 * BLOCK, BLOCK), (8 * BLOCK, 2 * BLOCK)])


def test_what_changed_is_written_and_nothing_else(old_and_new: tuple[Path, Path]) -> None:
    image, device = old_and_new
    done: list[int] = []
    update_image(str(image), str(device), DELTA, done.append)
    assert image.read_bytes() == device.read_bytes()
    assert sum(done) == 5 * BLOCK


def test_a_read_that_fails_is_told_and_another_run_mends_it(old_and_new: tuple[Path, Path]) -> None:
    image, device = old_and_new
    whole = device.read_bytes()
    device.write_bytes(whole[: 5 * BLOCK])
    with pytest.raises(VssError, match="mixture") as failed:
        update_image(str(image), str(device), DELTA, lambda count: None)
    assert failed.value.code == Code.VSS_E_UNEXPECTED
    device.write_bytes(whole)
    check_image(str(image), (8 * BLOCK, 10 * BLOCK), [])
    update_image(str(image), str(device), DELTA, lambda count: None)
    assert image.read_bytes() == whole


def test_nothing_is_written_when_the_later_copy_cannot_be_opened(old_and_new: tuple[Path, Path]) -> None:
    image, device = old_and_new
    before = image.read_bytes()
    with pytest.raises(FileNotFoundError):
        update_image(str(image), f"{device}.gone", DELTA, lambda count: None)
    assert image.read_bytes() == before


def test_an_image_of_another_size_is_refused(old_and_new: tuple[Path, Path]) -> None:
    image, _ = old_and_new
    with pytest.raises(VssError, match="bytes"):
        check_image(str(image), (7 * BLOCK, 10 * BLOCK), [])


def test_pieces_that_touch_become_one_range() -> None:
    pieces = {
        0: ChangedRanges(BLOCK, 8 * BLOCK, 2 * BLOCK, [(BLOCK, BLOCK)]),
        2 * BLOCK: ChangedRanges(BLOCK, 8 * BLOCK, 4 * BLOCK, [(2 * BLOCK, BLOCK), (3 * BLOCK + 512, 512)]),
        4 * BLOCK: ChangedRanges(BLOCK, 9 * BLOCK, 9 * BLOCK, []),
    }
    whole = whole_delta(lambda offset: pieces[offset])
    assert whole == ChangedRanges(BLOCK, 9 * BLOCK, 9 * BLOCK, [(BLOCK, 2 * BLOCK), (3 * BLOCK + 512, 512)])
