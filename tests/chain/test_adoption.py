"""File systems that are in use move in and out again; what is in the way is named, and failures leave all as it was."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOLDER = "import sys, time; f = open(sys.argv[1]); print('open', flush=True); time.sleep(600)"


class Disk:
    """A file system on a loop device, mounted; ``close`` takes it away, however it is mounted by then."""

    def __init__(self, directory: str, kind: str, options: str) -> None:
        self.image, self.place = f"{directory}/disk.img", f"{directory}/files"
        os.mkdir(self.place)
        with open(self.image, "wb") as file:
            file.truncate(320 << 20)
        self.device = output("losetup", "--find", "--show", self.image)
        output(f"mkfs.{kind}", "-q", self.device)
        output("mount", "-o", options, self.device, self.place)
        Path(f"{self.place}/precious").write_text("precious")

    def source(self) -> str:
        return output("findmnt", "-n", "-o", "SOURCE", self.place)

    def options(self) -> set[str]:
        return set(output("findmnt", "-n", "-o", "OPTIONS", self.place).split(","))

    def close(self) -> None:
        subprocess.run(["umount", self.place], stderr=subprocess.DEVNULL, check=False, timeout=60)
        subprocess.run(["losetup", "--detach", self.device], stderr=subprocess.DEVNULL, check=False, timeout=60)


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout.strip()


@contextlib.contextmanager
def holding(path: str) -> Iterator[int]:
    """A process that has the file open."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
            yield holder.pid
        finally:
            holder.kill()


@pytest.fixture
def disk(chain: Any) -> Iterator[Any]:
    made: list[Disk] = []

    def make(kind: str = "ext4", options: str = "noatime") -> Disk:
        made.append(Disk(chain.directory, kind, options))
        chain.places["files"] = made[-1].place
        return made[-1]

    yield make
    for each in made:
        subprocess.run(["umount", each.place], stderr=subprocess.DEVNULL, check=False, timeout=60)
        chain.raw("volume", "remove", "files", "--force")
        each.close()


def test_in_and_out_again(chain: Any, disk: Any) -> None:
    one = disk("xfs")
    before = one.options()
    told = chain.raw("volume", "adopt", one.device, "--dry-run")
    assert told.returncode == 0 and f"unmount {one.place}" in told.stdout and "away for some seconds" in told.stdout
    assert one.source() == one.device and chain.cli("volume", "list") == []

    done = chain.raw("volume", "adopt", one.device)
    assert done.returncode == 0, done.stderr
    assert "was away for" in done.stdout and "x-systemd.requires=shadowset-attach@files.service" in done.stdout
    volume = chain.cli("volume", "list")[0]
    assert (volume["name"], volume["origin"], volume["mount_points"]) == ("files", one.device, [one.place])
    assert one.source() == volume["device"] and one.options() == before
    assert Path(f"{one.place}/precious").read_text() == "precious"
    Path(f"{one.place}/later").write_text("later")
    chain.cli("create", "files")
    refused = chain.raw("volume", "release", "files")
    assert refused.returncode == 1 and "has 1 shadow copies" in refused.stderr

    away = chain.cli("volume", "release", "files", "--force")
    assert away["device"] == one.device and away["mount_point"] == one.place and away["away_s"] > 0
    assert one.source() == one.device and one.options() == before and chain.cli("volume", "list") == []
    assert Path(f"{one.place}/later").read_text() == "later"


def test_who_uses_it_is_named_and_nothing_is_done(chain: Any, disk: Any) -> None:
    one = disk()
    with holding(f"{one.place}/precious") as pid:
        refused = chain.raw("volume", "adopt", one.device)
    assert refused.returncode == 1 and f"({pid}); stop them first" in refused.stderr
    assert "Traceback" not in refused.stderr and one.source() == one.device

    bound = f"{chain.directory}/bound"
    os.mkdir(bound)
    output("mount", "--bind", one.place, bound)
    try:
        refused = chain.raw("volume", "adopt", one.device)
    finally:
        output("umount", bound)
    assert refused.returncode == 1 and bound in refused.stderr
    inside = chain.raw("volume", "adopt", one.device, "--storage", f"{one.place}/storage")
    assert inside.returncode == 1 and "lies on the volume itself" in inside.stderr
    assert one.source() == one.device and chain.cli("volume", "list") == []


@pytest.mark.parametrize("failing", ["volume_attach", "mount"])
def test_a_step_that_fails_takes_all_back(
    chain: Any, disk: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli import main
    from shadowset.requester.volumes import adoption
    from shadowset.vss.codes import Code, VssError

    one = disk()
    before = one.options()
    for name, value in chain.environment.items():
        monkeypatch.setenv(name, value)
    real = adoption.mount

    def fail(*_: Any, **__: Any) -> None:
        raise VssError(Code.VSS_E_UNEXPECTED, "ordered by the test")

    def mount(source: str, place: Any) -> None:
        if source != one.device:
            fail()
        real(source, place)

    if failing == "mount":
        monkeypatch.setattr(adoption, "mount", mount)
    else:
        monkeypatch.setattr(Administration, failing, fail)
    assert main(["volume", "adopt", one.device]) == 1
    said = capsys.readouterr().err
    assert "ordered by the test" in said and "taking back: unmount" in said
    assert one.source() == one.device and one.options() == before and chain.cli("volume", "list") == []
    assert Path(f"{one.place}/precious").read_text() == "precious"


def test_what_cannot_be_adopted(chain: Any, disk: Any) -> None:
    one = disk()
    for arguments, why in (
        ((one.image,), "is no block device"),
        (("/dev/shadowset-none",), "cannot be used"),
        ((one.device, "--mountpoint", chain.directory), "leave the mount point out"),
    ):
        done = chain.raw("volume", "adopt", *arguments)
        assert done.returncode == 1 and why in done.stderr, done.stderr
    output("umount", one.place)
    done = chain.raw("volume", "adopt", one.device)
    assert done.returncode == 1 and "mounted nowhere" in done.stderr
    done = chain.raw("volume", "adopt", one.device, "--mountpoint", one.place, "--name", "files")
    assert done.returncode == 0, done.stderr
    assert Path(f"{one.place}/precious").read_text() == "precious"
    with holding(f"{one.place}/precious") as pid:
        for command in (("volume", "detach", "files"), ("volume", "release", "files")):
            done = chain.raw(*command)
            assert done.returncode == 1 and one.place in done.stderr and str(pid) in done.stderr, done.stderr
    done = chain.raw("volume", "release", "nothing")
    assert done.returncode == 1 and "there is no volume" in done.stderr
