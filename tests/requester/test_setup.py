"""Setup makes what belongs on a host, and its undo takes away that and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shadowset.daemon.catalogue import Catalogue, VolumeRow
from shadowset.requester.setup import plan
from shadowset.requester.setup.run import Outcome, apply, record_of, refuse_undo_in_use, undo
from shadowset.requester.setup.tree import Tree
from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: groups and owners")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A tree as a fresh Debian has it."""
    for name in ("etc/systemd/system", "var/lib", "usr/lib"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\npostgres:x:117:117::/:/bin/sh\n")
    return tmp_path


def picture(top: Path) -> dict[str, tuple[int, str]]:
    """Each path with its mode and content; backups of the group files are the group tools' own."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.name in ("group-", "gshadow-", "gshadow", ".pwd.lock"):
            continue
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "directory"
        found[str(path.relative_to(top))] = (path.lstat().st_mode, content)
    return found


def setup(host: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shadowset.requester.cli", "setup", "--root", str(host), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done
    return done


def test_setup_and_its_undo_leave_the_host_as_it_was(host: Path) -> None:
    before = picture(host)
    setup(host, "--programs", "/usr/bin")
    made = picture(host)
    assert "shadowset" in (host / "etc/group").read_text()
    assert (host / "var/lib/shadowset").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (ROOT / "systemd").iterdir() if path.name.endswith(plan.UNIT_KINDS)} <= {
        path.name for path in (host / "etc/systemd/system").iterdir()
    }
    unit = (host / "etc/systemd/system/shadowsetd.service").read_text()
    assert "ExecStart=/usr/bin/shadowsetd" in unit and plan.EXAMPLE_BIN not in unit
    if shutil.which("systemctl"):
        assert (host / "etc/systemd/system/multi-user.target.wants/shadowsetd.service").is_symlink()
    again = json.loads(setup(host, "--programs", "/usr/bin", "--json").stdout)
    assert {each["result"] for each in again} == {"there"} and picture(host) == made
    setup(host, "--undo")
    shutil.rmtree(host / "etc/systemd/system/multi-user.target.wants", ignore_errors=True)  # systemctl's, empty
    assert picture(host) == before


def test_a_bare_tree_is_left_as_bare(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    before = picture(tmp_path)
    said = setup(tmp_path).stdout
    assert f"made  directory {tmp_path}/var/lib (mode 0755)\n" in said
    assert not any(line.split()[-1].startswith(("/etc", "/var")) for line in said.splitlines())
    setup(tmp_path, "--undo")
    shutil.rmtree(tmp_path / "etc/systemd/system/multi-user.target.wants", ignore_errors=True)
    assert picture(tmp_path) == before


def test_what_setup_made_above_its_own_is_everybodys_once_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    setup(tmp_path)
    (tmp_path / "var/log").mkdir()
    done = setup(tmp_path, "--undo")
    assert f"kept  directory {tmp_path}/var (mode 0755): it still holds log\n" in done.stdout and not done.stderr
    assert os.listdir(tmp_path / "var") == ["log"]


def test_a_dry_run_changes_nothing(host: Path) -> None:
    before = picture(host)
    said = setup(host, "--dry-run").stdout
    assert f"would be made  group shadowset in {host}" in said and picture(host) == before
    setup(host)
    made = picture(host)
    said = setup(host, "--undo", "--dry-run").stdout
    assert f"would be removed  directory {host}/var/lib/shadowset (mode 0700)" in said and picture(host) == made


def test_what_somebody_changed_or_filled_remains_and_is_named(host: Path) -> None:
    setup(host)
    storage = host / "var/lib/shadowset/storage/data"
    storage.mkdir()
    (storage / "table").write_text("old blocks")
    (host / "etc/shadowset/shadowsetd.toml").write_text("[limit]\nhold_ms = 5000\n")
    timer = host / "etc/systemd/system/shadowset-job@nightly.timer"
    timer.touch()
    done = setup(host, "--undo")
    assert "'shadowset job unschedule nightly' takes it away" in done.stderr
    timer.unlink()
    assert f"remains  directory {host}/var/lib/shadowset/storage (mode 0700): it still holds data" in done.stdout
    assert f"remains  file {host}/etc/shadowset/shadowsetd.toml: it was changed" in done.stdout
    assert "remains, for the reasons above" in done.stderr
    assert (storage / "table").read_text() == "old blocks"
    assert "hold_ms" in (host / "etc/shadowset/shadowsetd.toml").read_text()
    assert "shadowset" not in (host / "etc/group").read_text()
    shutil.rmtree(storage)
    (host / "etc/shadowset/shadowsetd.toml").unlink()
    setup(host, "--undo")
    assert not (host / "var/lib/shadowset").exists() and not (host / "etc/shadowset").exists()


def test_what_was_there_before_is_not_taken_away(host: Path) -> None:
    (host / "etc/group").write_text("root:x:0:\nshadowset:x:500:alice\n")
    (host / "etc/shadowset").mkdir()
    (host / "etc/shadowset/shadowsetd.toml").write_text("[limit]\nhold_ms = 5000\n")
    before = picture(host)
    assert f"kept  file {host}/etc/shadowset/shadowsetd.toml" in setup(host).stdout
    setup(host, "--undo")
    shutil.rmtree(host / "etc/systemd/system/multi-user.target.wants", ignore_errors=True)
    assert picture(host) == before


def test_a_group_with_members_remains(host: Path) -> None:
    setup(host)
    lines = (host / "etc/group").read_text().splitlines()
    (host / "etc/group").write_text("".join(f"{line}alice\n" if "shadowset" in line else f"{line}\n" for line in lines))
    assert f"remains  group shadowset in {host}: it has members (alice)" in setup(host, "--undo").stdout


def test_an_upgrade_brings_new_units_and_spares_changed_ones(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup(host)
    units = host / "etc/systemd/system"
    (units / "shadowset-writer-redis.service").write_text("[Service]\nExecStart=/own\n")
    newer = {name: f"{text}# newer\n" for name, text in plan.units().items()}
    monkeypatch.setattr(plan, "units", lambda: newer)
    tree, paths, told = Tree(str(host)), Paths(), list[Outcome]()
    apply(tree, record_of(tree, paths), plan.plan(tree, paths, "/usr/bin", []), False, told.append)
    results = {outcome.step: outcome.result for outcome in told}
    assert results[f"file {host}/etc/systemd/system/shadowsetd.service"] == "updated"
    assert results[f"file {host}/etc/systemd/system/shadowset-writer-redis.service"] == "kept"
    assert "# newer" in (units / "shadowsetd.service").read_text()
    assert "/own" in (units / "shadowset-writer-redis.service").read_text()


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="not installed: systemctl")
def test_a_unit_that_somebody_disabled_stays_so(host: Path) -> None:
    setup(host)
    subprocess.run(["systemctl", f"--root={host}", "disable", "shadowsetd.service"], check=True, capture_output=True)
    assert f"kept  enabled unit shadowsetd.service in {host}: somebody disabled it" in setup(host).stdout
    assert not (host / "etc/systemd/system/multi-user.target.wants/shadowsetd.service").exists()


def test_an_interrupted_setup_can_be_undone(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = picture(host)
    tree, paths = Tree(str(host)), Paths()
    steps = plan.plan(tree, paths, "/usr/bin", [])

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(Tree, "must", refuse)
        apply(tree, record_of(tree, paths), steps, False, lambda outcome: None)
    assert undo(tree, record_of(tree, paths), False, lambda outcome: None) == 0
    assert picture(host) == before


def test_units_of_a_package_are_left_to_it(host: Path) -> None:
    packaged = host / "usr/lib/systemd/system"
    packaged.mkdir(parents=True)
    for unit in plan.ENABLED:
        shutil.copy(ROOT / "systemd" / unit, packaged)
    setup(host)
    assert not (host / "etc/systemd/system/shadowsetd.service").exists()


def test_a_writer_gets_its_rule(host: Path) -> None:
    assert "'systemctl restart shadowsetd'" in setup(host, "--writer", "postgres").stderr
    assert 'user = "postgres"' in (host / "etc/shadowset/access.d/writer-postgres.toml").read_text()
    assert "there is no user 'nobody-here'" in setup(host, "--writer", "nobody-here", status=1).stderr


def test_a_record_of_a_newer_version_is_refused_by_name(host: Path) -> None:
    setup(host)
    record = host / "var/lib/shadowset/setup.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 9'))
    assert "setup.json has format 9" in setup(host, "--undo", status=1).stderr
    record.write_text("{")
    assert "setup.json cannot be read" in setup(host, "--undo", status=1).stderr


def test_no_undo_while_a_volume_is_attached(tmp_path: Path) -> None:
    paths = Paths(runtime=str(tmp_path))
    refuse_undo_in_use(Tree(), paths)
    (tmp_path / "by-name").mkdir()
    (tmp_path / "by-name" / "data").symlink_to("/dev/null")
    with pytest.raises(VssError, match="volume data is attached"):
        refuse_undo_in_use(Tree(), paths)


def test_a_tree_that_is_none(tmp_path: Path) -> None:
    assert "is no directory" in setup(tmp_path / "away", status=2).stderr


@pytest.mark.parametrize("used", [False, True])
def test_the_coordinators_state_goes_unless_it_tells_of_a_volume(host: Path, used: bool) -> None:
    setup(host, "--programs", "/usr/bin")
    state = host / "var/lib/shadowset"
    catalogue = Catalogue(str(state / "catalogue.db"))
    if used:
        catalogue.put_volume(VolumeRow("data", "/dev/vdb", "/backup/data", 16384))
    catalogue.close()
    (state / "shadowsetd.lock").write_text("1")
    (state / "providers/btrfs").mkdir(parents=True)
    said = setup(host, "--undo").stdout
    assert (state / "catalogue.db").exists() == state.exists() == used
    assert ("it still holds catalogue.db" in said) == used


def test_no_undo_while_a_program_reads_over_nbd(tmp_path: Path) -> None:
    paths = Paths(runtime=str(tmp_path / "run"))
    place = tmp_path / "run/volumes/data/nbd.sock"
    place.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(place))
        server.listen()
        refuse_undo_in_use(Tree(), paths)
        client.connect(str(place))
        accepted, _ = server.accept()
        with accepted, pytest.raises(VssError, match="connected to the NBD socket of volume data"):
            refuse_undo_in_use(Tree(), paths)
