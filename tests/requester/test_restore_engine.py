"""Whole restores into real directories, from backups made with a fake coordinator."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.engine import BackupJob
from shadowset.requester.backup.plan import Choice, parse_selector
from shadowset.requester.restore import place
from shadowset.requester.restore.engine import RestoreJob, RestoreReport
from shadowset.requester.restore.wishes import Relocation, Wishes
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import (
    ComponentType,
    FileRestoreStatus,
    RestoreMethodType,
    RestoreTarget,
    WriterRestore,
    WriterState,
)
from shadowset.vss.metadata import ComponentInfo, ExcludedFiles, FileSet, LocationMapping, RestoreMethod
from shadowset.vss.requester_protocol import WriterStatus
from shadowset.vss.selection import Selector

ALL, NONE, FAILED = FileRestoreStatus.ALL, FileRestoreStatus.NONE, FileRestoreStatus.FAILED


def tree(top: Path) -> dict[str, Any]:
    """Everything about a tree that a restore must bring back."""
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        link = os.readlink(path) if path.is_symlink() else ""
        contents = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        mode = 0 if link else status.st_mode
        time = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        found[str(path.relative_to(top))] = (mode, status.st_uid, status.st_gid, time, link, contents)
    return found


@pytest.fixture
def made(coordinator: Any, data: Path, tmp_path: Path) -> Path:
    """A backup of ``data``."""
    os.chmod(data / "db/orders/orders.db", 0o640)
    if os.geteuid() == 0:
        os.chown(data / "db/orders/orders.db", 1234, 4321)
    (data / "db/orders/current").symlink_to("orders.db")
    BackupJob(str(tmp_path / "b"), Choice()).run()
    return tmp_path / "b"


def restore(source: Path, **options: Any) -> RestoreReport:
    return RestoreJob(str(source), **options).run()


def with_metadata(coordinator: Any, **fields: Any) -> None:
    coordinator.writers[0] = msgspec.structs.replace(coordinator.writers[0], **fields)


def rebuild(coordinator: Any, target: Path, **fields: Any) -> Path:
    """A backup whose stored metadata say something else."""
    with_metadata(coordinator, **fields)
    BackupJob(str(target), Choice()).run()
    return target


def test_everything_comes_back_and_stale_files_go(coordinator: Any, data: Path, made: Path) -> None:
    before = tree(data)
    (data / "db/orders/orders.db").write_bytes(b"newer")
    (data / "db/orders/orders.db-shm").write_bytes(b"stale")
    (data / "db/orders/current").unlink()
    shutil.rmtree(data / "db/stock")
    (data / "unrelated").write_bytes(b"mine")
    report = restore(made)
    assert [(one.status, one.reason) for one in report.components] == [(ALL, "")] * 2 and report.succeeded
    assert report.components[0].removed == [str(data / "db/orders/orders.db-shm")]
    assert (data / "unrelated").read_bytes() == b"mine"
    (data / "unrelated").unlink()
    assert tree(data) == before
    assert coordinator.restore_status() == {"databases\\orders": ALL, "databases\\stock": ALL}


def test_the_order_of_the_calls_is_vsss(coordinator: Any, made: Path) -> None:
    coordinator.calls.clear()
    restore(made)
    assert [name for name in coordinator.names() if name != "hello"] == [
        "volume-list", "initialize-for-restore", "set-restore-state", "gather-writer-metadata",
        "set-selected-for-restore", "set-selected-for-restore", "pre-restore", "get-document",
        "gather-writer-status", "set-file-restore-status",
        "set-file-restore-status", "post-restore", "gather-writer-status", "get-document",
    ]  # fmt: skip


def test_files_are_put_back_between_the_two_events(coordinator: Any, data: Path, made: Path) -> None:
    (data / "db/orders/orders.db").write_bytes(b"newer")
    seen = {}
    coordinator.on_call["pre-restore"] = lambda session: seen.update(pre=(data / "db/orders/orders.db").read_bytes())
    coordinator.on_call["post-restore"] = lambda session: seen.update(post=(data / "db/orders/orders.db").read_bytes())
    restore(made)
    assert seen == {"pre": b"newer", "post": b"orders" * 5000}


def test_directories_that_are_gone_come_back_with_their_modes(coordinator: Any, data: Path, tmp_path: Path) -> None:
    os.chmod(data / "db", 0o711)
    os.chmod(data / "db/orders", 0o700)
    BackupJob(str(tmp_path / "b"), Choice()).run()
    shutil.rmtree(data / "db")
    assert restore(tmp_path / "b").succeeded
    modes = [stat.S_IMODE(os.stat(data / path).st_mode) for path in ("db", "db/orders")]
    assert modes == [0o711, 0o700]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b, f: f.write_bytes(b"X" + f.read_bytes()[1:]),
            r"was altered after the backup \(its digest differs\);",
        ),
        (lambda b, f: f.write_bytes(f.read_bytes()[:-1]), r" expected\); use another backup"),
        (lambda b, f: f.unlink(), "is missing or unreadable"),
        (lambda b, f: (f.rename(b / "moved"), f.symlink_to(b / "moved")), "is missing or unreadable"),
        (lambda b, f: (b / "manifest.json").write_bytes((b / "manifest.json").read_bytes()[:500]), "cut short"),
        (lambda b, f: (b / "manifest.json").unlink(), "not finished"),
        (lambda b, f: (b / "BackupComponents.xml").write_bytes(b"<x/>"), "was altered"),
        (lambda b, f: (b / "WriterMetadata0.xml").unlink(), "cannot be read"),
    ],
)
def test_an_altered_backup_is_refused_before_anything_happens(
    coordinator: Any, data: Path, made: Path, change: Any, message: str
) -> None:
    stored = next(file.stored for file in bundle.load(str(made)).files if file.path.endswith("stock.db"))
    change(made, made / stored)
    (data / "db/stock/stock.db").write_bytes(b"newer")
    before = tree(data)
    coordinator.calls.clear()
    with pytest.raises(bundle.BundleError, match=message):
        restore(made)
    assert tree(data) == before and coordinator.calls == []


def test_a_manifest_of_the_first_format(coordinator: Any, data: Path, made: Path) -> None:
    """As version 0.1 wrote it before there were chains: without instances at the files."""
    before = tree(data)
    whole = json.loads((made / "manifest.json").read_text())
    for entry in (*whole["backup"]["files"], *whole["backup"]["components"]):
        assert entry.pop("instance_name", "") == ""
    for entry in whole["backup"]["files"]:
        del entry["instance_id"]
    body = json.dumps(whole["backup"], sort_keys=True, separators=(",", ":")).encode("ascii")
    whole |= {"format": 1, "sha256": hashlib.sha256(body).hexdigest()}
    (made / "manifest.json").write_text(json.dumps(whole))
    shutil.rmtree(data / "db")
    assert restore(made).succeeded and tree(data) == before


def test_part_of_a_backup(coordinator: Any, data: Path, made: Path) -> None:
    for name in ("orders", "stock"):
        (data / f"db/{name}/{name}.db").write_bytes(b"newer")
    report = restore(made, wanted=(parse_selector("SQLite Writer:databases/stock"),))
    assert [one.component for one in report.components] == ["databases\\stock"]
    assert (data / "db/orders/orders.db").read_bytes() == b"newer"
    assert (data / "db/stock/stock.db").read_bytes() == b"stock" * 5000
    with pytest.raises(VssError, match="the backup holds no Nobody"):
        restore(made, wanted=(parse_selector("Nobody"),))


def test_a_member_of_a_set_that_is_selectable_for_restore(coordinator: Any, data: Path, tmp_path: Path) -> None:
    whole = ComponentInfo(ComponentType.FILEGROUP, "all", files=(FileSet(str(data / "db/orders"), "*"),))
    members = [
        ComponentInfo(
            ComponentType.FILEGROUP, name, "all", selectable=False, selectable_for_restore=possible,
            files=(FileSet(str(data / "db/stock"), pattern),),
        )
        for name, pattern, possible in (("yes", "*.db", True), ("no", "*-wal", False))
    ]  # fmt: skip
    source = rebuild(coordinator, tmp_path / "b", components=(whole, *members))
    for path in data.rglob("*.db*"):
        path.write_bytes(b"newer")
    assert restore(source, wanted=(parse_selector("SQLite Writer:all/yes"),)).succeeded
    assert (data / "db/stock/stock.db").read_bytes() == b"stock" * 5000
    assert (data / "db/stock/stock.db-wal").read_bytes() == b"newer"
    assert (data / "db/orders/orders.db").read_bytes() == b"newer"
    assert "add-restore-subcomponent" in coordinator.names()
    with pytest.raises(VssError, match="cannot be restored by itself"):
        restore(source, wanted=(parse_selector("SQLite Writer:all/no"),))


def test_excluded_files_are_not_stale(coordinator: Any, data: Path, tmp_path: Path) -> None:
    source = rebuild(coordinator, tmp_path / "b", exclude_files=(ExcludedFiles(str(data), "*.lock", True),))
    (data / "db/orders/x.lock").write_bytes(b"lock")
    assert restore(source).succeeded
    assert (data / "db/orders/x.lock").exists()


# ---- mount points ----


def test_a_volume_that_is_not_mounted_now(coordinator: Any, data: Path, made: Path, tmp_path: Path) -> None:
    coordinator.volumes["data"] = ""
    (data / "db/orders/orders.db").write_bytes(b"beneath")
    before = tree(data)
    with pytest.raises(VssError) as caught:
        restore(made)
    assert caught.value.code == Code.VSS_E_BAD_STATE
    assert caught.value.message == (
        f"nothing is mounted at {data}; mount volume data there first, or restore with --to DIR"
    )
    assert tree(data) == before and "pre-restore" not in coordinator.names()
    assert RestoreJob(str(made)).run_to(str(tmp_path / "look")).succeeded


def test_files_that_go_elsewhere_need_not_have_their_volume(coordinator: Any, data: Path, tmp_path: Path) -> None:
    source = rebuild(coordinator, tmp_path / "b", restore_method=RestoreMethod(writer_restore=WriterRestore.NEVER))
    coordinator.volumes["data"] = ""
    moved = Relocation(Selector("SQLite Writer"), str(data / "db"), str(tmp_path / "new"))
    assert restore(source, wishes=Wishes(relocations=(moved,))).succeeded
    assert (tmp_path / "new/orders/orders.db").read_bytes() == b"orders" * 5000
    with pytest.raises(VssError, match="nothing is mounted at"):
        restore(source)


def test_only_mount_points_that_get_files_are_asked_for(coordinator: Any, data: Path, tmp_path: Path) -> None:
    for name in ("orders", "stock"):
        coordinator.volumes[name] = str(data / "db" / name)
    BackupJob(str(tmp_path / "b"), Choice()).run()
    coordinator.volumes["data"] = coordinator.volumes["stock"] = ""
    assert restore(tmp_path / "b", wanted=(parse_selector("SQLite Writer:databases/orders"),)).succeeded
    with pytest.raises(VssError, match="db/stock; mount volume stock there first"):
        restore(tmp_path / "b")


def test_a_mount_point_behind_a_symbolic_link(coordinator: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(data)
    files = (FileSet(str(tmp_path / "way/db/orders"), "*"),)
    source = rebuild(
        coordinator, tmp_path / "b", components=(ComponentInfo(ComponentType.FILEGROUP, "c", files=files),)
    )
    coordinator.volumes["data"] = ""
    with pytest.raises(VssError, match="nothing is mounted at"):
        restore(source)


def test_another_file_system_at_the_mount_point_will_do(coordinator: Any, data: Path, made: Path) -> None:
    del coordinator.volumes["data"]
    coordinator.volumes["new"] = str(data)
    assert restore(made).succeeded


def test_a_backup_without_mount_points_is_restored_unasked(coordinator: Any, data: Path, made: Path) -> None:
    manifest = bundle.load(str(made))
    for volume in manifest.volumes:
        volume.mount_points = []
    bundle.save(str(made), manifest)
    coordinator.volumes["data"] = ""
    assert restore(made).succeeded


# ---- writers ----


def test_a_writer_that_does_not_run(coordinator: Any, data: Path, made: Path) -> None:
    coordinator.writers.clear()
    (data / "db/orders/orders.db").write_bytes(b"newer")
    with pytest.raises(VssError, match="SQLite Writer does not run") as caught:
        restore(made)
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND
    assert (data / "db/orders/orders.db").read_bytes() == b"newer"


def test_a_writer_that_refuses_keeps_its_files(coordinator: Any, data: Path, made: Path) -> None:
    writer = coordinator.writers[0]
    (data / "db/orders/orders.db").write_bytes(b"newer")
    coordinator.status[writer.instance_id] = WriterStatus(
        writer.writer_id, writer.instance_id, writer.name, WriterState.FAILED_AT_PRE_RESTORE
    )
    report = restore(made)
    assert not report.succeeded and {one.status for one in report.components} == {NONE}
    assert "failed at pre restore" in report.components[0].reason
    assert (data / "db/orders/orders.db").read_bytes() == b"newer"
    assert coordinator.names()[-3:] == ["post-restore", "gather-writer-status", "get-document"]


def test_a_writer_that_fails_afterwards(coordinator: Any, made: Path) -> None:
    writer = coordinator.writers[0]

    def fail(session: Any) -> None:
        coordinator.status[writer.instance_id] = WriterStatus(
            writer.writer_id, writer.instance_id, writer.name, WriterState.FAILED_AT_POST_RESTORE
        )

    coordinator.on_call["post-restore"] = fail
    report = restore(made)
    assert not report.succeeded and report.problems == ["after the restore writer SQLite Writer failed at post restore"]


def test_writers_that_never_take_part_get_no_events(coordinator: Any, data: Path, tmp_path: Path) -> None:
    source = rebuild(coordinator, tmp_path / "b", restore_method=RestoreMethod(writer_restore=WriterRestore.NEVER))
    (data / "db/orders/orders.db").write_bytes(b"newer")
    coordinator.writers.clear()
    assert restore(source).succeeded
    assert (data / "db/orders/orders.db").read_bytes() == b"orders" * 5000
    assert "set-selected-for-restore" not in coordinator.names()
    assert "set-file-restore-status" not in coordinator.names()


# ---- methods and targets ----


@pytest.mark.parametrize("method", [RestoreMethodType.UNDEFINED, RestoreMethodType.CUSTOM])
def test_methods_that_are_the_writers_own_are_refused_by_name(
    coordinator: Any, data: Path, tmp_path: Path, method: RestoreMethodType
) -> None:
    own = RestoreMethod(method, user_procedure="https://example.org/how")
    source = rebuild(coordinator, tmp_path / "b", restore_method=own)
    coordinator.calls.clear()
    with pytest.raises(VssError, match=rf"restored by {method.name}, .*example.org/how.*--to DIR") as caught:
        restore(source)
    assert caught.value.code == Code.VSS_E_NOT_SUPPORTED and coordinator.calls == []


def mapping(data: Path) -> LocationMapping:
    return LocationMapping(str(data / "db/orders"), "*", True, str(data / "other/orders"))


def test_if_not_there(coordinator: Any, data: Path, tmp_path: Path) -> None:
    method = RestoreMethod(RestoreMethodType.RESTORE_IF_NOT_THERE)
    source = rebuild(coordinator, tmp_path / "b", restore_method=method, alternate_location_mappings=(mapping(data),))
    shutil.rmtree(data / "db/stock")
    (data / "db/orders/orders.db").write_bytes(b"newer")
    report = restore(source)
    assert [one.status for one in report.components] == [ALL, ALL]
    assert report.components[0].mapped == [str(data / "other/orders")]
    assert (data / "db/orders/orders.db").read_bytes() == b"newer"
    assert (data / "other/orders/orders.db").read_bytes() == b"orders" * 5000
    assert (data / "db/stock/stock.db").read_bytes() == b"stock" * 5000
    call = next(call for call in coordinator.calls if type(call).__name__ == "AddAlternativeLocationMapping")
    assert (call.path, call.filespec, call.destination) == (str(data / "db/orders"), "*", str(data / "other/orders"))


def test_if_not_there_without_another_place(coordinator: Any, data: Path, tmp_path: Path) -> None:
    source = rebuild(coordinator, tmp_path / "b", restore_method=RestoreMethod(RestoreMethodType.RESTORE_IF_NOT_THERE))
    report = restore(source)
    assert {one.status for one in report.components} == {NONE}
    assert "is there, and its writer wants nothing replaced" in report.components[0].reason


def test_to_alternate_location(coordinator: Any, data: Path, tmp_path: Path) -> None:
    method = RestoreMethod(RestoreMethodType.RESTORE_TO_ALTERNATE_LOCATION)
    source = rebuild(coordinator, tmp_path / "b", restore_method=method, alternate_location_mappings=(mapping(data),))
    report = restore(source)
    assert [one.status for one in report.components] == [ALL, NONE]
    assert "there is none for" in report.components[1].reason


def test_a_file_that_cannot_be_replaced(coordinator: Any, data: Path, made: Path) -> None:
    (data / "db/orders/orders.db").unlink()
    (data / "db/orders/orders.db").mkdir()
    (data / "db/stock/stock.db").write_bytes(b"newer")
    report = restore(made)
    assert [one.status for one in report.components] == [NONE, ALL]
    assert "is a directory where the backup has a file" in report.components[0].reason
    assert (data / "db/stock/stock.db").read_bytes() == b"stock" * 5000


@pytest.mark.parametrize(
    ("target", "statuses", "reason"),
    [
        (RestoreTarget.ORIGINAL_LOCATION, [ALL, ALL], ""),
        (RestoreTarget.ALTERNATE, [NONE, ALL], "the writer asks for it"),
        (RestoreTarget.DIRECTED, [ALL, ALL], ""),
    ],
)
def test_the_target_that_a_writer_sets_before_the_restore(
    coordinator: Any, made: Path, target: RestoreTarget, statuses: list[FileRestoreStatus], reason: str
) -> None:
    def choose(session: Any) -> None:
        session.document.writers[0].components[0].restore_target = target

    coordinator.on_call["pre-restore"] = choose
    report = restore(made)
    assert [one.status for one in report.components] == statuses and reason in report.components[0].reason


# ---- failures half-way ----


def leftovers(top: Path) -> list[str]:
    return [str(path) for path in top.rglob(".shadowset-*")]


def test_a_failure_while_staging_changes_nothing(
    coordinator: Any, data: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "db/stock/stock.db").write_bytes(b"newer")
    (data / "db/stock/stale").write_bytes(b"stale")
    before = tree(data)
    real = place.digest_file
    monkeypatch.setattr(place, "digest_file", lambda path, seen: (0, "") if "stock" in path else real(path, seen))
    report = restore(made)
    assert [one.status for one in report.components] == [ALL, NONE]
    assert "reads back from the disk other than it was written" in report.components[1].reason
    assert tree(data / "db/stock") == {
        path.removeprefix("db/stock/"): entry for path, entry in before.items() if path.startswith("db/stock/")
    }
    assert leftovers(data) == []


STAGED, ASIDE = ".shadowset-restore-0123abcd-7", ".shadowset-restore-0123abcd-stale-0"


@pytest.mark.parametrize("filespec", ["*", "*.db"])
def test_what_a_killed_restore_left_goes(coordinator: Any, data: Path, tmp_path: Path, filespec: str) -> None:
    files = (FileSet(str(data / "db/orders"), filespec),)
    component = ComponentInfo(ComponentType.FILEGROUP, "c", files=files)
    source = rebuild(coordinator, tmp_path / "b", components=(component,))
    others = [".shadowset-restore-0123abcd", ".shadowset-restore-0123ABCD-7", ".shadowset-restore-0123abcd-7.db"]
    for name in (STAGED, ASIDE, *(others if filespec != "*" else ())):
        (data / "db/orders" / name).write_bytes(b"left")
    (data / "db/stock" / STAGED).write_bytes(b"of another component")
    (data / "db/orders/.shadowset-restore-0123abcd-8").mkdir()
    report = restore(source)
    assert report.succeeded and [path for path in report.components[0].removed if "shadowset" in path] == (
        [str(data / "db/orders" / others[2])] if filespec != "*" else []
    )
    kept = [*others[:2], ".shadowset-restore-0123abcd-8"] if filespec != "*" else [".shadowset-restore-0123abcd-8"]
    assert sorted(Path(path).name for path in leftovers(data / "db/orders")) == sorted(kept)
    assert (data / "db/stock" / STAGED).exists()


def test_what_a_killed_restore_moved_aside_stays_until_the_next_succeeds(
    coordinator: Any, data: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (STAGED, ASIDE):
        (data / "db/orders" / name).write_bytes(b"left")
    with monkeypatch.context() as patch:
        patch.setattr(place, "digest_file", lambda path, seen: (0, ""))
        assert not restore(made).succeeded
    assert leftovers(data) == [str(data / "db/orders" / ASIDE)]
    assert restore(made).succeeded and leftovers(data) == []


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failure_while_committing_is_told_as_what_it_left(
    coordinator: Any, data: Path, made: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    (data / "db/orders/stale").write_bytes(b"stale")
    real, count = os.rename, [0]

    def rename(old: str, new: str) -> None:
        if "orders" in new:
            count[0] += 1
            if count[0] == failing:
                raise OSError(5, "Input/output error")
        real(old, new)

    monkeypatch.setattr(place.os, "rename", rename)
    report = restore(made)
    assert report.components[0].status == (FAILED if failing == 3 else NONE)
    assert "Input/output error" in report.components[0].reason
    assert (data / "db/orders/stale").exists() == (failing < 3), "stale files go back while all the rest is old"
    assert [path for path in leftovers(data) if "stale" not in path] == []


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tmpfs")
def test_a_full_disk_leaves_the_old_files(coordinator: Any, data: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(data / "db/orders")], check=True)
    try:
        (data / "db/orders/orders.db").write_bytes(os.urandom(700_000))
        coordinator.volumes["orders"] = str(data / "db/orders")
        BackupJob(str(tmp_path / "b"), Choice()).run()
        (data / "db/orders/orders.db").write_bytes(b"newer" * 140_000)
        report = restore(tmp_path / "b")
        assert [one.status for one in report.components] == [NONE, ALL]
        assert "there is no room to write" in report.components[0].reason
        assert os.listdir(data / "db/orders") == ["orders.db"]
        assert (data / "db/orders/orders.db").read_bytes() == b"newer" * 140_000
    finally:
        subprocess.run(["umount", str(data / "db/orders")], check=True)


@pytest.mark.parametrize("call", ["initialize-for-restore", "pre-restore", "set-file-restore-status", "post-restore"])
def test_a_coordinator_that_dies(coordinator: Any, data: Path, made: Path, call: str) -> None:
    coordinator.die_on = call
    with pytest.raises(VssError, match=f"during {call}"):
        restore(made)
    assert leftovers(data) == []


# ---- beside the live files ----


@pytest.mark.vss(81)
def test_restore_into_a_directory_without_writers(coordinator: Any, data: Path, made: Path, tmp_path: Path) -> None:
    before = tree(data / "db")
    shutil.rmtree(data / "db")
    coordinator.calls.clear()
    report = RestoreJob(str(made)).run_to(str(tmp_path / "look"))
    assert report.succeeded and report.to == str(tmp_path / "look")
    assert tree(Path(f"{tmp_path}/look{data}/db")) == before
    assert coordinator.calls == [] and not (data / "db").exists()
    with pytest.raises(VssError, match="not an empty directory"):
        RestoreJob(str(made)).run_to(str(tmp_path / "look"))


def test_nothing_is_left_of_a_directory_that_could_not_be_filled(
    coordinator: Any, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "digest_file", lambda path, seen: (0, ""))
    with pytest.raises(VssError, match="reads back"):
        RestoreJob(str(made)).run_to(str(tmp_path / "look"))
    assert not (tmp_path / "look").exists()
