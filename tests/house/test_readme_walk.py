"""The README's own commands, typed one after another on a host that has had nothing of Shadowset yet.

The host is a copy that is thrown away, with the Debian package installed. Only what a reader would replace is replaced:
the disk, ids, and paths on disks that he would have.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from walking import DONE, ROOT, walk

README = ROOT / "README.md"

BEFORE = """\
set -eu
export LC_ALL=C.UTF-8 RESTIC_REPOSITORY=/media/restic RESTIC_PASSWORD=secret
rm -rf /etc/shadowset /var/lib/shadowset /mnt/*
cleanup() {
    status=$?
    [ $status = 0 ] || { echo "FAILED after: $typed" >&2; shadowset events >&2 || true; }
    [ -z "${writer:-}" ] || { kill "$writer" && wait "$writer" || true; }
    umount /srv/data 2>/dev/null || true
    shadowset hold "$(copy)" --end >/dev/null 2>&1 || true
    shadowset volume detach data >/dev/null 2>&1 || true
    shadowset volume remove data --force >/dev/null 2>&1 || true
    [ -z "${service:-}" ] || { kill "$service" && wait "$service" || true; }
    umount /run/shadowset/devices 2>/dev/null || true
    losetup --detach "$disk" || true
    exit $status
}
dpkg --install /srv/shadowset.deb >/dev/null
truncate -s 96M /srv/disk
disk=$(losetup --find --show /srv/disk)
mkfs.ext4 -q "$disk"
mkdir /srv/data /backup /media/disk /media/large
trap cleanup EXIT
until_ready() { n=0; until "$@" >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 600 ]; sleep 0.1; done; }
has_writer() { shadowset writers | grep -q SQLite; }
copy() { shadowset list --json | sed -n 's/.*"snapshot_id": "\\(.*\\)",/\\1/p' | head -n 1; }
set_() { shadowset list --json | sed -n 's/.*"snapshot_set_id": "\\(.*\\)",/\\1/p' | head -n 1; }
typed=
"""
AROUND = {
    "shadowset serve &": ("", "service=$!; until_ready shadowset status"),
    "mount /dev/shadowset/data /srv/data": (
        "",
        "mkdir -p /srv/data/app /srv/data/projects; echo then >/srv/data/file; sync",
    ),
    "shadowset run -- restic backup /srv/data": (
        "restic init >/dev/null",
        "restic restore latest --target /media/restored >/dev/null; grep -qx then /media/restored/srv/data/file",
    ),
    "umount /srv/data && shadowset volume detach data": ("echo later >/srv/data/file", ""),
    "shadowset volume attach data && mount /dev/shadowset/data /srv/data": ("", "grep -qx then /srv/data/file"),
    "shadowset-writer-sqlite '/srv/data/app/*.db' &": (
        "python3 -c \"import sqlite3; c = sqlite3.connect('/srv/data/app/a.db'); c.execute('create table t(x)');"
        " c.execute('insert into t values (42)'); c.commit()\"",
        "writer=$!; until_ready has_writer",
    ),
    "shadowset restore /backup/monday": (
        "rm /srv/data/app/a.db",
        "python3 -c \"import sqlite3; c = sqlite3.connect('/srv/data/app/a.db');"
        " assert c.execute('select x from t').fetchone() == (42,)\"",
    ),
    "shadowset job run nightly": (
        "mkdir -p /backup/nightly /etc/shadowset/jobs.d; cp /srv/nightly.toml /etc/shadowset/jobs.d/",
        "rm /srv/data/app/a.db; shadowset restore /backup/nightly/*-full >/dev/null; test -s /srv/data/app/a.db",
    ),
    "shadowset job schedule nightly": ("", "grep -qx OnCalendar=daily /etc/systemd/system/shadowset-job@nightly.timer"),
    "shadowset break 3f2a /srv/data-then.img --keep-copy": ("", "file /srv/data-then.img | grep -q ext4"),
}
REPLACED = (
    ("/dev/sdb1", '"$disk"'),
    ("3f2a", '"$(copy)"'),
    ("show SET", 'show "$(set_)"'),
    ("/mnt/large/data", "/media/large/data"),
    ("--max-size 100G", "--max-size 1G"),
    ("shadowset revert ", "shadowset revert --yes "),
)
NOT_HERE = (
    "make deb",  # was done: its package is installed
    "shadowset setup",  # the package has done it
    "python3 -m venv", "/opt/shadowset/bin/pip", "export PATH",  # the other way to install
    "make ", "lvextend",  # needs LVM
    "shadowset samba check",  # needs a server: tests/chain/test_samba.py
    "runuser", "shadowset-writer-",  # applications of their own tests
    "shadowset top", "shadowset page", "shadowset extract",  # for eyes, and for a file that the reader has
)  # fmt: skip


def commands() -> Iterator[str]:
    """What the README says to type, without its remarks."""
    text = README.read_text().partition("## Write a writer")[0]
    for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE):
        command = re.sub(r"\s+#.*$", "", line)
        if command in AROUND or not command.startswith(NOT_HERE):
            yield command


def job() -> str:
    """The job's file, as the README has it."""
    (text,) = re.findall(r"^```toml\n(# /etc/shadowset/jobs.d/nightly.toml\n.*?)^```", README.read_text(), re.M | re.S)
    return str(text)


def script() -> str:
    """All of it, for a shell that ends at the first failure."""
    lines = [BEFORE, f"cat >/srv/nightly.toml <<'END'\n{job()}END"]
    for command in commands():
        before, after = AROUND.get(command, ("", ""))
        real = command
        for said, meant in REPLACED:
            real = real.replace(said, meant)
        typed = command.replace("'", '"')
        lines += [before, f"typed='{typed}'", real if "&" in real else f"{real} >/tmp/said", after]
    return "\n".join([*lines, f"echo {DONE}"])


def test_everything_that_can_be_typed_here_is() -> None:
    found = list(commands())
    assert len(found) > 30 and set(AROUND) <= set(found), set(AROUND) - set(found)
    assert len([each for each in found if each.startswith("shadowset ")]) > 25
    subprocess.run(["sh", "-nc", script()], check=True, timeout=60)


@pytest.mark.long
@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")
@pytest.mark.timeout(600)
def test_the_readme_can_be_followed_on_a_fresh_host(tmp_path: Path) -> None:
    walk(script(), tmp_path)
