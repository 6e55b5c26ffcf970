"""``shadowset run``: programs that we did not write back up shadow copies under the volumes' own paths."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mount_table import root_is_mount

STRANGER = 45001
VOLUMES = (("outer", "ext4", 64 << 20), ("inner", "xfs", 320 << 20))


@pytest.fixture
def nested(chain: Any) -> Any:
    """Volume ``inner`` is mounted inside ``outer``, as /srv and /srv/db often are."""
    chain.add_volumes(VOLUMES)
    outer, inner = chain.places["outer"], chain.places["inner"]
    device = next(line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {inner} " in line)
    subprocess.run(["umount", inner], check=True)
    os.mkdir(f"{outer}/db")
    subprocess.run(["mount", device, f"{outer}/db"], check=True)
    chain.places = {"inner": f"{outer}/db", "outer": outer}  # unmounted in this order
    Path(f"{outer}/file").write_text("outer, as it was")
    Path(f"{outer}/db/file").write_text("inner, as it was")
    return chain


def run(chain: Any, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shadowset.requester.cli", "run", *arguments]
    return subprocess.run(
        command, env=chain.environment, capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_the_command_sees_the_instant_of_the_cut(nested: Any) -> None:
    outer = nested.places["outer"]
    script = (
        f"echo new >{outer}.marker; while [ ! -e {outer}.changed ]; do sleep 0.05; done;"
        f" cat {outer}/file {outer}/db/file; pwd; cat file; echo; touch {outer}/no 2>&1;"
        " env | grep -c ^SHADOWSET_MOUNT_"
    )

    def change() -> None:
        while not os.path.exists(f"{outer}.marker"):
            time.sleep(0.01)
        for path in (f"{outer}/file", f"{outer}/db/file"):
            Path(path).write_text("changed")
        Path(f"{outer}.changed").touch()

    changer = threading.Thread(target=change)
    changer.start()
    done = run(nested, "--", "sh", "-c", script, cwd=f"{outer}/db")
    changer.join(60)
    assert "outer, as it wasinner, as it was" in done.stdout, done
    assert f"{outer}/db\ninner, as it was\n" in done.stdout
    assert "Read-only file system" in done.stdout
    assert done.stdout.endswith("2\n")
    assert done.returncode == 0
    assert Path(f"{outer}/file").read_text() == "changed"  # outside, nothing is covered
    assert run(nested, "--volume", "outer", "--", "sh", "-c", "exit 7").returncode == 7
    assert run(nested, "--volume", nested.places["inner"], "--", "/proc/none").returncode == 127
    assert run(nested, "--", "sh", "-c", "kill -KILL $$").returncode == 128 + signal.SIGKILL
    refused = run(nested, "--volume", "/proc", "--", "true")
    assert refused.returncode == 125
    assert "the program was not run: /proc is no protected volume" in refused.stderr
    with pytest.MonkeyPatch.context() as patch:
        (Path(nested.directory) / "unshare").write_text("#!/bin/sh\nexit 1\n")
        (Path(nested.directory) / "unshare").chmod(0o755)
        patch.setitem(nested.environment, "PATH", f"{nested.directory}:{os.environ['PATH']}")
        refused = run(nested, "--volume", "outer", "--", "touch", f"{outer}.ran")
    assert refused.returncode == 125 and "not run: a mount namespace cannot be made" in refused.stderr
    assert not os.path.exists(f"{outer}.ran") and nested.cli("list") == []
    nested.check_writable()


def test_writers_are_told_how_the_command_ended(nested: Any, wait_until: Any) -> None:
    outer = nested.places["outer"]
    os.mkdir(f"{outer}/app")
    Path(f"{outer}/app/data").write_text("x")
    seen = Path(f"{nested.directory}/seen")
    writer = f"""
import sys
from shadowset.vss.enums import ComponentType
from shadowset.writers.sdk import Writer, run_until_signal
class Told(Writer):
    writer_id = "6f7ee1f5-57b6-4d2f-8a5b-3b1f4c6f5d11"
    name = "Told"
    def on_identify(self, metadata):
        metadata.add_component(ComponentType.FILEGROUP, "app").add_files({outer + "/app"!r}, "*")
    def on_backup_complete(self, event):
        with open({str(seen)!r}, "a") as file:
            file.write(str([c.backup_succeeded for c in event.components]))
run_until_signal(Told())
"""
    nested.start(sys.executable, "-c", writer)
    wait_until("the writer", lambda: [entry for entry in nested.cli("writers") if entry["connected"]])
    for command, told in (("true", "[True]"), ("false", "[True][False]")):
        run(nested, "--", command)
        assert seen.read_text() == told


def test_a_killed_requester_takes_its_command_along(nested: Any, wait_until: Any) -> None:
    started = Path(f"{nested.directory}/started")
    process = nested.module("shadowset.requester.cli", "run", "--", "sh", "-c", f"echo $$ >{started}; exec sleep 600")
    pid = int(wait_until("the command", lambda: started.exists() and started.read_text()))
    process.kill()
    process.wait()
    wait_until("the command to end", lambda: not os.path.exists(f"/proc/{pid}"))
    wait_until("the set to go", lambda: nested.cli("list") == [])
    nested.check_writable()


@pytest.fixture
def files(nested: Any) -> Iterator[dict[str, bytes]]:
    """Files as they are before the cut; during the backup they are changed."""
    made = {}
    for name in ("file", "db/file", "big", "db/deep/er"):
        path = f"{nested.places['outer']}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        made[path] = os.urandom(300_000 if name == "big" else 1000)
        Path(path).write_bytes(made[path])
    yield made


PROGRAMS = {
    "restic": ("restic init -q", "restic backup -q {path}", "restic restore -q latest -t ."),
    "borg": ("borg init -e none", "borg create ::a {path}", "borg extract ::a"),
    "rsync": ("mkdir {top}/rsync", "rsync -aHAXR {path} {top}/rsync/", "rsync -aHAX {top}/rsync/ ."),
    "tar": ("true", "tar -c --acls --xattrs -Pf {top}/tar {path}", "tar -x --acls --xattrs -f {top}/tar"),
}
"""How each makes its repository, saves, and brings back into the directory in which it is run."""


@pytest.mark.slow
def test_backup_programs_from_debian(nested: Any, files: dict[str, bytes], tmp_path: Path) -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    top = nested.directory
    nested.environment |= {
        "RESTIC_PASSWORD": "x",
        "RESTIC_REPOSITORY": f"{top}/restic",
        "RESTIC_CACHE_DIR": f"{top}/cache",
        "BORG_REPO": f"{top}/borg",
        "BORG_BASE_DIR": f"{top}/borg-base",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }

    def spoil() -> None:
        while not os.path.exists(f"{top}/cut"):
            time.sleep(0.01)
        for path in files:
            Path(path).write_bytes(b"spoilt")
        Path(f"{top}/spoilt").touch()

    saver = Path(f"{top}/save")
    words = {"top": top, "path": nested.places["outer"]}
    saves = " && ".join(save.format(**words) for _, save, _ in PROGRAMS.values())
    saver.write_text(f"#!/bin/sh\ntouch {top}/cut\nwhile [ ! -e {top}/spoilt ]; do sleep 0.05; done\n{saves}\n")
    saver.chmod(0o755)
    for make, _, _ in PROGRAMS.values():
        subprocess.run(make.format(**words).split(), env=nested.environment, check=True, timeout=120)
    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    done = run(nested, "--json", "--", str(saver))
    spoiler.join(60)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout)["volumes"]) == ["inner", "outer"]
    for name, (_, _, take) in PROGRAMS.items():
        (tmp_path / name).mkdir()
        command = take.format(**words).split()
        subprocess.run(
            command, env=nested.environment, cwd=tmp_path / name, check=True, timeout=120, capture_output=True
        )
        for path, content in files.items():
            assert Path(f"{tmp_path}/{name}{path}").read_bytes() == content


IN_A_CHROOT = """
set -e
mount --make-rprivate /
mount --make-rshared /
mkdir {top}/root
for place in usr etc var proc dev {more}; do
    mkdir -p {top}/root/$place
    mount --rbind /$place {top}/root/$place
done
for link in bin lib lib64 sbin; do cp -P /$link {top}/root/; done
cat /proc/self/mountinfo >{top}/before
chroot {top}/root {python} -c {script}
cat /proc/self/mountinfo >{top}/after
"""
RUNS_INSIDE = """
import os, subprocess
from shadowset.requester.run.job import run_inside
show = "cat {live}/file {live}/db/file; pwd; grep -c . /proc/self/mountinfo >/dev/null"
os.chdir("{live}/db")
status = run_inside(["sh", "-c", show], {{"{live}": "{copies}/outer", "{live}/db": "{copies}/inner"}}, dict(os.environ))
print(open("{live}/file").read(), open("{live}/db/file").read(), status)
"""


def test_where_the_root_is_no_mount() -> None:
    """As in a chroot, below mounts that spread: nothing that is mounted for the command is seen outside of it."""
    if os.geteuid():
        pytest.skip("needs root")
    if not root_is_mount():
        pytest.skip("the root is no mount here, so all tests of this file show it")
    top = tempfile.mkdtemp(prefix="ss-chroot-", dir="/var/tmp")
    try:
        for place in ("live", "copies/outer/db", "copies/inner"):
            os.makedirs(f"{top}/{place}")
        script = RUNS_INSIDE.format(live=f"{top}/live", copies=f"{top}/copies")
        mounts = f"""
mount -t tmpfs tmpfs {top}/live
mkdir {top}/live/db
mount -t tmpfs tmpfs {top}/live/db
mount --bind {top}/copies/outer {top}/copies/outer
mount --bind {top}/copies/inner {top}/copies/inner
echo live-outer >{top}/live/file
echo live-inner >{top}/live/db/file
echo copy-outer >{top}/copies/outer/file
echo copy-inner >{top}/copies/inner/file
"""
        checkout = str(Path(__file__).resolve().parents[2]).split("/")[1]
        words = {"top": top, "python": shlex.quote(sys.executable), "script": shlex.quote(script)}
        shell = mounts + IN_A_CHROOT.format(**words, more="" if checkout in ("usr", "var") else checkout)
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", shell], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        first, second, place, *rest = done.stdout.split()
        assert (first, second, place) == ("copy-outer", "copy-inner", f"{top}/live/db")
        assert rest == ["live-outer", "live-inner", "0"]
        assert Path(f"{top}/after").read_text() == Path(f"{top}/before").read_text()
    finally:
        shutil.rmtree(top)


@pytest.fixture
def stranger(nested: Any) -> Iterator[list[str]]:
    """A command prefix: as a user who may be a requester, and reaches this program, which may lie in root's home."""
    site = f"{nested.directory}/site"
    os.mkdir(site)
    for package in ("shadowset", "msgspec", "defusedxml"):
        found = importlib.util.find_spec(package)
        assert found is not None and found.submodule_search_locations
        source = found.submodule_search_locations[0]
        shutil.copytree(source, f"{site}/{package}", ignore=shutil.ignore_patterns("__pycache__"))
    for directory in (nested.directory, nested.runtime):
        os.chmod(directory, 0o755)
    os.makedirs(f"{nested.directory}/config/access.d")
    rule = f'[[rule]]\nuser = {STRANGER}\naccess = "requester"\n'
    Path(f"{nested.directory}/config/access.d/rules.toml").write_text(rule)
    nested.environment |= {"SHADOWSET_CONFIG_DIR": f"{nested.directory}/config", "PYTHONPATH": site}
    nested.daemon.terminate()
    nested.daemon.wait(30)
    nested.start_daemon()
    who = ["setpriv", "--reuid", str(STRANGER), "--regid", str(STRANGER), "--clear-groups"]
    yield [*who, os.path.realpath(sys.executable), "-m", "shadowset.requester.cli", "run"]


def test_without_root(nested: Any, stranger: list[str]) -> None:
    outer = nested.places["outer"]
    Path(f"{outer}/secret").write_text("root's alone")
    os.chmod(f"{outer}/secret", 0o600)
    script = (
        f"echo changed 2>/dev/null >{outer}/no || echo read-only; id -u; grep CapEff /proc/self/status;"
        f" cat file db/file; cat secret 2>&1; stat -c %u file; exit 3"
    )

    def run_as(cwd: str, *command: str) -> subprocess.CompletedProcess[str]:
        whole = [*stranger, "--", *command]
        options: Any = {"env": nested.environment, "capture_output": True, "text": True, "timeout": 120}
        return subprocess.run(whole, cwd=cwd, check=False, **options)

    done = run_as(outer, "sh", "-c", script)
    if "lets only root make a mount namespace" in done.stderr:
        assert done.returncode == 125
        return
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(f"read-only\n{STRANGER}\nCapEff:\t0000000000000000\n"), done.stdout
    assert "outer, as it wasinner, as it was" in done.stdout and "Permission denied" in done.stdout
    assert done.stdout.endswith("65534\n"), "other owners are nobody there"
    assert Path(f"{outer}/file").read_text() == "outer, as it was" and nested.cli("list") == []
    (Path(nested.directory) / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (Path(nested.directory) / "unshare").chmod(0o755)
    nested.environment["PATH"] = f"{nested.directory}:{os.environ['PATH']}"
    refused = run_as("/", "true")
    assert refused.returncode == 125 and "lets only root make a mount namespace" in refused.stderr
    assert nested.cli("list") == []
