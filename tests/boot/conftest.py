"""Machines with the package installed, each with disks of its own; made once, then copied."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boot_disk
import pytest
from boot_machine import Machine

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., Machine]


@pytest.fixture(scope="session")
def image() -> Path:
    """Debian's disk."""
    if lacking := boot_disk.missing():
        pytest.skip(lacking)
    return boot_disk.image()


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this tree."""
    command = [sys.executable, ROOT / "package/build_deb.py", tmp_path_factory.mktemp("deb")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture
def bare(image: Path, package: Path) -> Iterator[Machine]:
    """A machine without Shadowset; the package lies at /exchange/shadowset.deb, and ``/dev/ubdb`` is an empty disk."""
    machine = Machine(image, (256 << 20,))
    shutil.copyfile(package, machine.exchange / "shadowset.deb")
    yield machine
    machine.remove()


@pytest.fixture(scope="session")
def installed(image: Path, package: Path) -> Iterator[Machine]:
    """A machine that is off, with the package installed; the others are copies of it."""
    machine = Machine(image)
    try:
        shutil.copyfile(package, machine.exchange / "shadowset.deb")
        machine.boot()
        machine.run("dpkg -i /exchange/shadowset.deb")
        machine.end()
        yield machine
    finally:
        machine.remove()


@pytest.fixture
def make(image: Path, installed: Machine, package: Path) -> Iterator[Make]:
    """Makes a machine with Shadowset, which is off, with empty disks ``/dev/ubdb``, ``/dev/ubdc`` of these sizes."""
    made: list[Machine] = []

    def new(*sizes: int, **options: Any) -> Machine:
        made.append(Machine(image, sizes, **options))
        made[-1].copy_of(installed)
        shutil.copyfile(package, made[-1].exchange / "shadowset.deb")
        return made[-1]

    yield new
    for each in made:
        each.remove()


@pytest.fixture
def machine(make: Make) -> Machine:
    """One that runs, and has ``data`` on ``/dev/ubdb`` mounted at /srv/data by /etc/fstab, as the manual tells."""
    guest = make(256 << 20)
    assert guest.boot() == "running"
    guest.protect("data", "/dev/ubdb", "/srv/data")
    return guest
