"""A small Debian system on a protected volume: restored into an empty tree, onto another machine, and as it was."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from load import Load
from qemu_guest import copy_program
from rounds import keep, row, table

PROGRAMS = ("dpkg", "dpkg-query", "systemd-analyze", "id", "sh")
PACKAGES = ("netbase", "sensible-utils", "hostname", "debian-archive-keyring", "base-passwd")
UNIT = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/bin/id\n"


@pytest.fixture
def tree(chain: Any) -> Path:
    """Programs with their libraries, a package data base, accounts, a unit with a timer, and two users."""
    if shutil.which("dpkg-query") is None or shutil.which("systemd-analyze") is None:
        pytest.skip("not installed: dpkg, systemd")
    chain.add_volumes((("one", "ext4", 192 << 20),))
    made = Path(chain.places["one"]) / "system"
    for name in ("bin", "sbin", "lib", "lib64"):
        (made / "usr" / name).mkdir(parents=True)
        (made / name).symlink_to(f"usr/{name}")
    for program in PROGRAMS:
        copy_program(Path(os.path.realpath(shutil.which(program) or "")), made)
        found = Path(os.path.realpath(shutil.which(program) or "")).name
        if found != program:
            (made / "bin" / program).symlink_to(found)
    fill_package_data_base(made)
    for path, text in {
        "etc/passwd": "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n",
        "etc/group": "root:x:0:\nada:x:1000:\n",
        "etc/shadow": "root:*:1::::::\n",
        "etc/fstab": "UUID=old-machine / ext4 defaults 0 1\n",
        "etc/.pwd.lock": "",
        "etc/app/app.conf": "colour = green\n",
        "etc/systemd/system/app.service": UNIT,
        "etc/systemd/system/app.timer": "[Unit]\nDefaultDependencies=no\n[Timer]\nOnCalendar=daily\n",
        "usr/lib/modules/6.1/modules.dep": "old kernel\n",
        "boot/vmlinuz": "old kernel\n",
        "var/lib/systemd/timers/stamp-app.timer": "",
        "var/lib/app/state": "1\n",
        "home/ada/letter": "dear\n",
        "home/ada/.cache/junk": "junk\n",
        "home/bob/diary": "today\n",
    }.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_text(text)
    (made / "etc/shadow").chmod(0o600)
    os.chown(made / "home/ada/letter", 1000, 1000)
    return made


def fill_package_data_base(tree: Path) -> None:
    data_base = tree / "var/lib/dpkg"
    (data_base / "info").mkdir(parents=True)
    stanzas = []
    for package in PACKAGES:
        asked = subprocess.run(["dpkg-query", "-s", package], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            stanzas.append("\n".join(line for line in asked.stdout.splitlines() if not line.startswith("Depends")))
            for path in Path("/var/lib/dpkg/info").glob(f"{package}.*"):
                shutil.copy(path, data_base / "info")
    assert stanzas
    (data_base / "status").write_text("\n\n".join(stanzas) + "\n\n")
    for name in ("available", "lock", "lock-frontend", "arch"):
        (data_base / name).touch()
    (data_base / "updates").mkdir()


@pytest.fixture
def start(chain: Any, tree: Path, wait_until: Any) -> Iterator[Callable[..., Any]]:
    def begin() -> Any:
        config = Path(chain.directory) / "system.toml"
        config.write_text(f'root = "{tree}"\ndisks = ["{os.path.realpath("/dev/null")}"]\n')
        process = chain.module("shadowset.writers.system.main", "--config", str(config))
        wait_until("the writers", lambda: len(chain.cli("writers")) == 3)
        return process

    return begin


def in_tree(tree: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["chroot", tree, *command], capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "SYSTEMD_UNIT_PATH": "/etc/systemd/system:"},
    )  # fmt: skip


def check_system(tree: str) -> None:
    """The system's own tools find nothing wrong with it."""
    for name in ("tmp", "run", "proc"):  # what is no part of a system's state
        os.makedirs(f"{tree}/{name}", exist_ok=True)
    audit = in_tree(tree, "dpkg", "--audit")
    assert (audit.returncode, audit.stdout, audit.stderr) == (0, "", "")
    verify = in_tree(tree, "systemd-analyze", "verify", "--man=no", "/etc/systemd/system/app.service")
    assert verify.returncode == 0, verify.stderr
    assert "uid=1000(ada)" in in_tree(tree, "id", "ada").stdout


@pytest.mark.vss(139)
def test_a_system_comes_back_in_three_ways(chain: Any, tree: Path, start: Callable[..., Any]) -> None:
    start()
    listed = in_tree(str(tree), "dpkg", "--get-selections").stdout
    done = chain.cli("backup", f"{chain.directory}/backup")
    reasons = {entry["component"]: entry.get("reason", "") for entry in done["components"] if not entry["succeeded"]}
    assert reasons == {}, done

    # into an empty tree
    empty = f"{chain.directory}/empty"
    assert chain.cli("restore", f"{chain.directory}/backup", "--to", empty)["succeeded"]
    restored = empty + str(tree)
    check_system(restored)
    assert in_tree(restored, "dpkg", "--get-selections").stdout == listed
    reports = Path(restored) / "var/lib/shadowset/system-state"
    assert (reports / "package-selections/dpkg-selections.txt").read_text() == listed
    assert os.access(reports / "disk-layout/rebuild.sh", os.R_OK)
    assert (os.stat(f"{restored}/etc/shadow").st_mode & 0o777, os.stat(f"{restored}/home/ada/letter").st_uid) == (
        0o600,
        1000,
    )
    assert not os.path.exists(f"{restored}/home/ada/.cache/junk")

    # the users' files alone
    (tree / "home/ada/letter").write_text("spoilt\n")
    (tree / "etc/app/app.conf").write_text("colour = red\n")
    assert chain.cli("restore", f"{chain.directory}/backup", "--writer", "User Store Writer")["succeeded"]
    assert (tree / "home/ada/letter").read_text() == "dear\n"
    assert (tree / "etc/app/app.conf").read_text() == "colour = red\n"

    # onto another machine: its disks, its kernel and its modules stay
    (tree / "etc/fstab").write_text("UUID=new-machine / ext4 defaults 0 1\n")
    (tree / "usr/lib/modules/6.9").mkdir()
    (tree / "usr/lib/modules/6.9/modules.dep").write_text("new kernel\n")
    shutil.rmtree(tree / "var/lib/dpkg/info")
    assert in_tree(str(tree), "dpkg", "--audit").stdout
    assert chain.cli("restore", f"{chain.directory}/backup", "--exclude-writer", "Layout Writer")["succeeded"]
    check_system(str(tree))
    assert (tree / "etc/app/app.conf").read_text() == "colour = green\n"
    assert (tree / "etc/fstab").read_text().startswith("UUID=new-machine")
    assert (tree / "usr/lib/modules/6.9/modules.dep").exists()

    # the machine as it was
    for name in ("etc", "usr", "boot", "home", "var/lib/app"):
        shutil.rmtree(tree / name)
    assert chain.cli("restore", f"{chain.directory}/backup")["succeeded"]
    check_system(str(tree))
    assert (tree / "etc/fstab").read_text().startswith("UUID=old-machine")


class PackageTool:
    """Changes configuration and state under dpkg's lock, as installations do, which is why both agree in any copy."""

    def __init__(self, tree: Path) -> None:
        self._lock = tree / "var/lib/dpkg/lock"
        self._files = [tree / "etc/app/app.conf", tree / "var/lib/app/state"]

    def change(self, number: int) -> None:
        with open(self._lock, "r+b") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            for file in self._files:
                file.write_text(f"{number}\n")

    def number(self) -> int:
        (number,) = {int(file.read_text()) for file in self._files}
        return number


@pytest.mark.long
@pytest.mark.timeout(300)
def test_installations_wait_for_the_cut(chain: Any, tree: Path, start: Callable[..., Any], show: Any) -> None:
    start()
    tool = PackageTool(tree)
    load = Load("the package tool", tool.change, [])
    record = chain.cli("create", "one")
    before = load.wait_for_more()
    done = chain.cli("backup", f"{chain.directory}/backup")
    assert all(entry["succeeded"] for entry in done["components"]), done
    after = load.wait_for_more()
    load.stop()
    for name in ("etc", "usr", "boot", "home", "var/lib"):
        shutil.rmtree(tree / name)
    assert chain.cli("restore", f"{chain.directory}/backup")["succeeded"]
    check_system(str(tree))
    number = tool.number()
    assert before <= number <= after
    writers = ("System Writer", "Layout Writer", "User Store Writer")
    rows = [row(record, done, [writer], writer.removesuffix(" Writer"), load.longest, number) for writer in writers]
    show(table(rows))
    keep("5-system", rows)
