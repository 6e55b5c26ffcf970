"""The kernel's own nbd through our netlink code, with servers from Debian."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("program", ["nbdkit", "qemu-nbd"])
def test_attach_kill_reconnect_detach(uml: Any, guests: Path, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program}")
    result = uml.run(guests / "nbd_attach.py", program, modules=("nbd", "loop", "fuse"))
    assert result.status == 0, result.console
    assert result.output.endswith("all is well")


def test_a_mounted_ext4_grows_with_its_volume(uml: Any, guests: Path) -> None:
    result = uml.run(guests / "resize.py", "nbd", "fuse", modules=("nbd", "loop", "fuse"))
    assert result.status == 0, result.console
    assert result.output.endswith("all is well")


def test_copies_as_devices_and_beside_the_live_file_system(uml: Any, guests: Path) -> None:
    result = uml.run(guests / "copies.py", modules=("nbd", "loop", "fuse"))
    assert result.status == 0, result.console
    assert result.output.endswith("all is well")


def test_a_mounted_ext4_does_not_notice_another_provider(uml: Any, guests: Path) -> None:
    result = uml.run(guests / "handover.py", modules=("nbd",))
    print(result.output)
    assert result.status == 0, result.console
    assert result.output.endswith("all is well")
