"""What cannot be served is refused in one sentence, and nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shadowset.nbd_provider.origin import Origin, loop_devices_on
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import Code, VssError


def image(path: str, size: int = 1 << 20) -> str:
    with open(path, "wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize(("size", "word"), [(0, "empty"), (1000, "no multiple of 512")])
def test_sizes(workdir: str, size: int, word: str) -> None:
    with pytest.raises(VssError, match=word) as caught:
        Origin(image(f"{workdir}/o", size))
    assert caught.value.code == Code.VSS_E_VOLUME_NOT_SUPPORTED


def test_what_is_no_volume(workdir: str) -> None:
    for path in (workdir, "/dev/null", f"{workdir}/nonesuch"):
        with pytest.raises(VssError) as caught:
            Origin(path)
        assert caught.value.code == Code.VSS_E_VOLUME_NOT_SUPPORTED and path in caught.value.message


def test_second_provider_of_one_image(workdir: str) -> None:
    origin = Origin(image(f"{workdir}/o"))
    with pytest.raises(VssError) as caught:
        Origin(f"{workdir}/o")
    assert caught.value.code == Code.VSS_E_VOLUME_IN_USE
    origin.close()
    Origin(f"{workdir}/o").close()


@pytest.fixture
def loop(workdir: str) -> Iterator[str]:
    if os.geteuid() or not os.path.exists("/dev/loop-control") or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root, loop devices and e2fsprogs")
    image(f"{workdir}/backing", 32 << 20)
    device = subprocess.check_output(["losetup", "-f", "--show", f"{workdir}/backing"], text=True).strip()
    yield device
    subprocess.run(["umount", f"{workdir}/mnt"], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["losetup", "-d", device], check=True)


def test_files_of_loop_devices_are_not_looked_at(workdir: str, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may lie on a file system whose server hangs."""
    os.symlink(f"{workdir}/backing", f"{workdir}/link")
    real, asked = os.path.realpath, []

    def realpath(path: str) -> str:
        asked.append(path)
        return real(path)

    monkeypatch.setattr(os.path, "realpath", realpath)
    assert loop_devices_on(f"{workdir}/link") == [loop]
    assert asked == [f"{workdir}/link"]


def test_mounted_device_and_its_file(workdir: str, loop: str) -> None:
    with pytest.raises(VssError, match=loop) as caught:
        Origin(f"{workdir}/backing")
    assert caught.value.code == Code.VSS_E_VOLUME_IN_USE
    subprocess.run(["mkfs.ext4", "-q", loop], check=True)
    os.mkdir(f"{workdir}/mnt")
    subprocess.run(["mount", loop, f"{workdir}/mnt"], check=True)
    with pytest.raises(VssError, match="unmount") as caught:
        Origin(loop)
    assert caught.value.code == Code.VSS_E_VOLUME_IN_USE


@pytest.mark.vss(97)
def test_storage_on_the_volume_itself(workdir: str, loop: str) -> None:
    subprocess.run(["mkfs.ext4", "-q", loop], check=True)
    os.mkdir(f"{workdir}/mnt")
    subprocess.run(["mount", loop, f"{workdir}/mnt"], check=True)
    from shadowset.nbd_provider.places import check_storage_place

    for origin in (loop, f"{workdir}/backing"):
        with pytest.raises(VssError, match="lies on the protected volume"):
            check_storage_place(origin, f"{workdir}/mnt/below/storage")
    check_storage_place(loop, f"{workdir}/storage")


@pytest.mark.vss(97)
def test_storage_of_another_volume(workdir: str) -> None:
    Volume("a", image(f"{workdir}/a"), f"{workdir}/storage").close()
    with pytest.raises(VssError, match="belongs to a volume of 1048576 bytes"):
        Volume("b", image(f"{workdir}/b", 2 << 20), f"{workdir}/storage")
    first = Volume("a", f"{workdir}/a", f"{workdir}/storage")
    fd = os.open(f"{workdir}/a", os.O_RDWR)
    with pytest.raises(VssError, match="in use by another provider"):
        ShadowStore(f"{workdir}/storage", fd, 1 << 20)
    os.close(fd)
    first.close()


@pytest.mark.parametrize("chunk_size", [0, 1000, 2048, 24576, 2 << 20])
def test_chunk_sizes(workdir: str, chunk_size: int) -> None:
    with pytest.raises(VssError, match="power of two"):
        Volume("a", image(f"{workdir}/a"), f"{workdir}/storage", chunk_size)


@pytest.mark.parametrize("copies", [-1, 0, 65537])
def test_numbers_of_copies(workdir: str, copies: int) -> None:
    with pytest.raises(VssError, match="give a number from 1 to 65536"):
        Volume("a", image(f"{workdir}/a"), f"{workdir}/storage", copies=copies)
    assert not os.path.exists(f"{workdir}/storage/table")


def run_provider(workdir: str, origin: str, *options: str) -> str:
    """What the command says when it cannot serve."""
    command = [sys.executable, "-m", "shadowset.nbd_provider.main", "v", "--origin", origin, *options]
    command += ["--storage", f"{workdir}/s", "--nbd", f"{workdir}/n", "--control", f"{workdir}/c"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr


def test_command_says_one_sentence(workdir: str) -> None:
    odd = image(f"{workdir}/odd", 1000)
    assert "no multiple of 512" in run_provider(workdir, odd)
    assert sorted(os.listdir(workdir)) == ["odd"]


def test_the_command_takes_the_number_of_copies(workdir: str) -> None:
    assert "cannot have 0 shadow copies" in run_provider(workdir, image(f"{workdir}/a"), "--max-copies", "0")


def test_locked_image_is_refused_whoever_locked_it(workdir: str) -> None:
    path = image(f"{workdir}/o")
    with open(path, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(VssError, match="locked"):
            Origin(path)
