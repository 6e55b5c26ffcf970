"""Images that are gone on with from where they were durable."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shadowset.requester.backup.copy import TargetError
from shadowset.requester.jobs import qcow2
from shadowset.vss.codes import VssError

MIB = 1 << 20
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="not installed: qemu-utils")


def contents(image: Path) -> bytes:
    raw = image.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    return raw.read_bytes()


def test_a_whole_image_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qcow2, "SEGMENT", MIB)
    device, image = tmp_path / "a,device", tmp_path / "an,image.qcow2"
    device.write_bytes(os.urandom(MIB) + bytes(MIB) + os.urandom(MIB) + b"x" * 512)
    real, calls = qcow2._run, 0

    def stop(*command: str, about: str = "") -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise TargetError(0, "lost")
        real(*command, about=about)

    monkeypatch.setattr(qcow2, "_run", stop)
    with pytest.raises(TargetError):
        qcow2.write_whole(str(device), str(image), device.stat().st_size, 0, lambda count: None)
    assert qcow2.begun(str(image)) == 2 * MIB
    seen: list[int] = []
    qcow2.write_whole(str(device), str(image), device.stat().st_size, 2 * MIB, seen.append)
    assert contents(image) == device.read_bytes() and seen == [2 * MIB, MIB, 512]
    assert qcow2.check(str(image)) == "" and not os.path.exists(qcow2.progress_path(str(image)))
    assert os.stat(image).st_blocks * 512 < 3 * MIB, "zeros take no room"


def test_an_incremental_image_goes_on(tmp_path: Path) -> None:
    before, device = tmp_path / "before", tmp_path / "device"
    base, image = tmp_path / "base.qcow2", tmp_path / "image.qcow2"
    before.write_bytes(os.urandom(4 * MIB))
    device.write_bytes(os.urandom(MIB) + before.read_bytes()[MIB : 3 * MIB] + bytes(MIB))
    qcow2.write_whole(str(before), str(base), 4 * MIB, 0, lambda count: None)
    ranges = [(0, MIB), (3 * MIB, MIB)]
    try:
        qcow2.write_changed(str(device), str(image), base.name, 4 * MIB, ranges[:1], 0, lambda count: None)
    except VssError as error:
        pytest.skip(error.message)
    Path(qcow2.progress_path(str(image))).write_text(f"{MIB // 2:020d}\n")
    assert qcow2.begun(str(image)) == MIB // 2
    seen: list[int] = []
    qcow2.write_changed(str(device), str(image), base.name, 4 * MIB, ranges, MIB // 2, seen.append)
    assert contents(image) == device.read_bytes() and seen[0] == MIB // 2 and sum(seen) == 2 * MIB


def test_an_image_that_is_damaged_is_begun_anew(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    assert qcow2.begun(str(image)) == 0
    Path(qcow2.progress_path(str(image))).write_text(f"{MIB:020d}\n")
    image.write_bytes(b"no image at all")
    assert qcow2.begun(str(image)) == 0
