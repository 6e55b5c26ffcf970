"""Whole backups of real directories through a fake coordinator."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.requester.backup import engine, store
from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.engine import BackupJob, BackupReport
from shadowset.requester.backup.plan import Choice, parse_selector
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Failure
from shadowset.vss.documents import components_from_xml, metadata_from_xml
from shadowset.vss.enums import BackupType, ComponentType, FileSetMask, WriterState
from shadowset.vss.metadata import ComponentInfo, ExcludedFiles, FileSet, WriterMetadata
from shadowset.vss.requester_protocol import WriterStatus
from shadowset.vss.selection import Selector


def backup(target: Path, choice: Choice = Choice(), **options: Any) -> BackupReport:  # noqa: B008 -- frozen
    return BackupJob(str(target), choice, **options).run()


def replace_components(coordinator: Any, *components: ComponentInfo, **fields: Any) -> None:
    coordinator.writers[0] = msgspec.structs.replace(coordinator.writers[0], components=components, **fields)


def group(name: str, *files: FileSet, **fields: Any) -> ComponentInfo:
    return ComponentInfo(ComponentType.FILEGROUP, name, files=files, **fields)


def test_a_backup_is_complete_and_recorded(coordinator: Any, data: Path, tmp_path: Path) -> None:
    report = backup(tmp_path / "b")
    assert report.succeeded and report.files == 4 and report.volumes == ["data"] and not report.dropped
    manifest = bundle.load(str(tmp_path / "b"))
    stored = [file for file in manifest.files if file.kind == "file"]
    assert sorted(file.path for file in stored) == sorted(str(path) for path in data.rglob("*") if path.is_file())
    for file in stored:
        assert (tmp_path / "b" / file.stored).read_bytes() == Path(file.path).read_bytes()
        assert file.stored.startswith("files/SQLite Writer/databases+")
    texts = bundle.verify_documents(str(tmp_path / "b"), manifest)
    document = components_from_xml(texts["BackupComponents.xml"])
    assert [one.backup_succeeded for one in document.writers[0].components] == [True, True]
    assert metadata_from_xml(texts["WriterMetadata0.xml"]) == coordinator.writers[0]
    bundle.verify_files(str(tmp_path / "b"), manifest.files, lambda count: None)


def test_the_order_of_the_calls_is_vsss(coordinator: Any, data: Path, tmp_path: Path, eventually: Any) -> None:
    backup(tmp_path / "b")
    names = [name for name in coordinator.names() if name != "hello"]
    ordered = [
        "volume-list", "query-volumes-supported", "list-writers",
        "initialize-for-backup", "set-context", "set-backup-state",
        "gather-writer-metadata",
        "add-component", "add-component", "start-snapshot-set", "add-to-snapshot-set", "prepare-for-backup",
        "gather-writer-status", "get-document", "do-snapshot-set", "gather-writer-status", "get-document",
            "expose-snapshot",
        "set-backup-succeeded", "set-backup-succeeded", "save-as-xml", "backup-complete", "gather-writer-status",
        "unexpose-snapshot",
    ]  # fmt: skip
    assert names == ordered
    assert eventually(lambda: not coordinator.copies), "the auto-release copies are gone"


def test_files_come_from_the_copy_and_are_listed_after_the_cut(coordinator: Any, data: Path, tmp_path: Path) -> None:
    late = data / "db" / "orders" / "made-while-preparing"
    coordinator.on_call["prepare-for-backup"] = lambda session: late.write_bytes(b"spit")
    coordinator.on_call["expose-snapshot"] = lambda session: (data / "db/orders/orders.db").write_bytes(b"changed")
    backup(tmp_path / "b")
    files = {file.path: tmp_path / "b" / file.stored for file in bundle.load(str(tmp_path / "b")).files if file.stored}
    assert files[str(late)].read_bytes() == b"spit"
    assert files[str(data / "db/orders/orders.db")].read_bytes() == b"orders" * 5000


def test_kinds_of_files(coordinator: Any, data: Path, tmp_path: Path) -> None:
    place = data / "db" / "orders"
    (place / "empty-dir").mkdir(mode=0o710)
    (place / "link").symlink_to("/etc/shadow")
    (place / "dirlink").symlink_to("empty-dir")
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "sock"))
    odd = os.fsencode(place) + b"/n\xffame\n\x1b[31m"
    with open(odd, "wb") as file:
        file.write(b"odd")
    with open(place / "sparse", "wb") as file:
        file.truncate(32 << 20)
    os.setxattr(place / "sparse", "user.x", b"1")
    report = backup(tmp_path / "b", Choice(wanted=(parse_selector("SQLite Writer:databases/orders"),)))
    assert report.succeeded and len(report.skipped) == 2
    files = {file.path: file for file in bundle.load(str(tmp_path / "b")).files}
    assert files[str(place / "link")].link == "/etc/shadow"
    assert files[str(place / "dirlink")].kind == "symlink"
    assert files[str(place / "empty-dir")].attributes.mode == 0o710
    assert files[str(data / "db")].kind == "parent" and files[str(place)].kind == "parent"
    assert (tmp_path / "b" / files[os.fsdecode(odd)].stored).read_bytes() == b"odd"
    sparse = files[str(place / "sparse")]
    assert sparse.size == 32 << 20 and sparse.attributes.xattrs == {"user.x": "MQ=="}
    assert os.stat(tmp_path / "b" / sparse.stored).st_blocks < 1000
    assert all("stock" not in path for path in files)


def test_patterns_exclusions_alternate_paths_and_members(coordinator: Any, data: Path, tmp_path: Path) -> None:
    (data / "spit").mkdir()
    (data / "spit" / "dump.sql").write_bytes(b"dump")
    (data / "top.txt").write_bytes(b"top")
    (data / "db" / "tmp.lock").write_bytes(b"lock")
    replace_components(
        coordinator,
        group("all", FileSet(str(data / "live"), "*.sql", alternate_path=str(data / "spit"))),
        group("member", FileSet(str(data / "db"), "*", recursive=True), logical_path="all", selectable=False),
        exclude_files=(ExcludedFiles(str(data), "*.lock", True), ExcludedFiles(str(data / "db/stock"), "*", True)),
    )
    assert backup(tmp_path / "b").succeeded
    files = {file.path: file for file in bundle.load(str(tmp_path / "b")).files if file.kind == "file"}
    assert set(files) == {
        str(data / "live/dump.sql"),
        *(str(data / f"db/orders/{n}") for n in ("orders.db", "orders.db-wal")),
    }
    assert files[str(data / "live/dump.sql")].member == ""
    assert files[str(data / "db/orders/orders.db")].member == "all\\member"
    assert len(coordinator.last_document().writers[0].components) == 1


def test_what_a_killed_restore_left_is_in_no_backup(coordinator: Any, data: Path, tmp_path: Path) -> None:
    for name in ("0123abcd-0", "0123abcd-stale-12", "mine"):
        (data / "db/orders" / f".shadowset-restore-{name}").write_bytes(b"left")
    assert backup(tmp_path / "b").files == 5
    names = {os.path.basename(file.path) for file in bundle.load(str(tmp_path / "b")).files}
    assert [name for name in names if name.startswith(".shadowset")] == [".shadowset-restore-mine"]


def test_one_unreadable_file_fails_its_component_only(
    coordinator: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.open_source

    def failing(path: str) -> int:
        if path.endswith("orders.db-wal"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(store, "open_source", failing)
    report = backup(tmp_path / "b")
    assert not report.succeeded
    results = {one.name: one for one in report.components}
    assert (
        not results["orders"].succeeded
        and "orders.db-wal cannot be read: Input/output error" in results["orders"].reason
    )
    assert results["stock"].succeeded and results["stock"].files == 2
    told = {one.name: one.backup_succeeded for one in coordinator.last_document().writers[0].components}
    assert told == {"orders": False, "stock": True}
    manifest = bundle.load(str(tmp_path / "b"))
    assert all(file.component == "databases\\stock" for file in manifest.files)
    assert sorted(os.listdir(tmp_path / "b/files/SQLite Writer")) == ["databases+stock"]


@pytest.mark.vss(64)
def test_one_unreadable_file_of_a_member_fails_the_whole_set(
    coordinator: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_components(
        coordinator,
        group("all", FileSet(str(data / "db/orders"), "*")),
        group("member", FileSet(str(data / "db/stock"), "*"), logical_path="all", selectable=False),
        group("other", FileSet(str(data / "db/stock"), "*.db")),
    )
    real = store.open_source

    def failing(path: str) -> int:
        if path.endswith("stock.db-wal"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(store, "open_source", failing)
    report = backup(tmp_path / "b")
    assert [(one.name, one.succeeded) for one in report.components] == [("all", False), ("other", True)]
    told = {one.name: one.backup_succeeded for one in coordinator.last_document().writers[0].components}
    assert told == {"all": False, "other": True}
    assert {file.component for file in bundle.load(str(tmp_path / "b")).files} == {"other"}


@pytest.mark.vss(44)
def test_files_that_a_writer_makes_after_the_cut(coordinator: Any, data: Path, tmp_path: Path) -> None:
    def make(session: Any) -> None:
        for name in ("late.txt", "late.bin", "early.txt"):
            (data / name).write_bytes(b"made after the cut")

    (data / "early.txt").write_bytes(b"early")
    mask = 0x0F0F | int(FileSetMask.CREATED_DURING_BACKUP)
    replace_components(coordinator, group("c", FileSet(str(data), "*.txt", mask=mask), FileSet(str(data), "*.bin")))
    coordinator.on_call["expose-snapshot"] = make
    assert backup(tmp_path / "b").succeeded
    files = {Path(file.path).name: file for file in bundle.load(str(tmp_path / "b")).files if file.stored}
    assert files.keys() == {"early.txt", "late.txt"}
    assert (tmp_path / "b" / files["early.txt"].stored).read_bytes() == b"early", "what a copy has is read there"


def test_a_failed_writer_fails_its_components(coordinator: Any, data: Path, tmp_path: Path) -> None:
    writer = coordinator.writers[0]
    other = WriterMetadata("33333333-0000-0000-0000-000000000003", "i3", "Other", components=(
        group("c", FileSet(str(data), "*.none")),))  # fmt: skip
    coordinator.writers.append(other)
    failure = Failure(Code.VSS_E_WRITERERROR_RETRYABLE, 0, "locked")
    coordinator.status[writer.instance_id] = WriterStatus(
        writer.writer_id, writer.instance_id, writer.name, WriterState.FAILED_AT_PREPARE_BACKUP, failure
    )
    report = backup(tmp_path / "b")
    assert [one.succeeded for one in report.components] == [False, False, True]
    assert "failed at prepare backup: locked [VSS_E_WRITERERROR_RETRYABLE" in report.components[0].reason


def test_a_component_that_its_writer_marked_as_failed(coordinator: Any, data: Path, tmp_path: Path) -> None:
    coordinator.component_failures["databases\\stock"] = Failure(Code.VSS_E_WRITERERROR_PARTIAL_FAILURE, 0, "torn")
    report = backup(tmp_path / "b")
    assert [one.succeeded for one in report.components] == [True, False]
    assert "torn" in report.components[1].reason


def test_a_writer_that_fails_at_the_end_is_a_problem(coordinator: Any, data: Path, tmp_path: Path) -> None:
    writer = coordinator.writers[0]

    def fail(session: Any) -> None:
        coordinator.status[writer.instance_id] = WriterStatus(
            writer.writer_id, writer.instance_id, writer.name, WriterState.FAILED_AT_BACKUP_COMPLETE
        )

    coordinator.on_call["backup-complete"] = fail
    report = backup(tmp_path / "b")
    assert not report.succeeded and all(one.succeeded for one in report.components)
    assert report.problems == ["after the backup writer SQLite Writer failed at backup complete"]


@pytest.fixture
def silent(coordinator: Any, data: Path) -> WriterMetadata:
    """A writer beside the one of ``data`` that is connected and does not answer identify."""
    writer = WriterMetadata("33333333-0000-0000-0000-000000000003", "i3", "Hung Writer", components=(
        group("c", FileSet(str(data), "*.none")),))  # fmt: skip
    coordinator.writers.append(writer)
    coordinator.silent.add("i3")
    failure = Failure(Code.VSS_E_WRITERERROR_TIMEOUT, 0, "no answer within 30 s")
    coordinator.status["i3"] = WriterStatus(
        writer.writer_id, "i3", writer.name, WriterState.FAILED_AT_IDENTIFY, failure, pid=77
    )
    return writer


def test_a_writer_that_did_not_describe_itself_is_told(coordinator: Any, silent: Any, tmp_path: Path) -> None:
    report = backup(tmp_path / "b")
    assert not report.succeeded and all(one.succeeded for one in report.components)
    assert report.left_out == [
        "writer Hung Writer of process 77 is left out: it did not describe itself when asked (no answer within 30 s); "
        "see to its process"
    ]
    assert bundle.load(str(tmp_path / "b")).dropped == report.left_out


def test_a_writer_that_goes_while_it_is_asked_is_told(coordinator: Any, silent: Any, tmp_path: Path) -> None:
    coordinator.on_call["gather-writer-metadata"] = lambda session: coordinator.writers.remove(silent)
    report = backup(tmp_path / "b")
    assert not report.succeeded and "its process is gone" in report.left_out[0]


@pytest.mark.parametrize(
    "choice",
    [
        Choice(excluded=(Selector("Hung Writer"),)),
        Choice(wanted=(Selector("SQLite Writer"),)),
        Choice(wanted=(parse_selector("SQLite Writer:databases/orders"),)),
    ],
)
def test_a_silent_writer_that_was_not_asked_for(coordinator: Any, silent: Any, tmp_path: Path, choice: Choice) -> None:
    report = backup(tmp_path / "b", choice)
    assert report.succeeded and not report.left_out and not report.dropped


def test_a_silent_writer_that_was_asked_for_by_name(coordinator: Any, silent: Any, tmp_path: Path) -> None:
    with pytest.raises(VssError, match="Hung Writer of process 77 is left out: it did not describe itself") as caught:
        backup(tmp_path / "b", Choice(wanted=(Selector("Hung Writer"), Selector("SQLite Writer"))))
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND and not (tmp_path / "b").exists()
    coordinator.writers.remove(coordinator.writers[0])
    with pytest.raises(VssError, match=r"there is nothing to back up.*Hung Writer.*did not describe itself"):
        backup(tmp_path / "b")


# ---- choice ----


def test_selection_by_writer_component_and_exclusion(coordinator: Any, data: Path, tmp_path: Path) -> None:
    report = backup(tmp_path / "1", Choice(wanted=(Selector("SQLite Writer"),)))
    assert [one.name for one in report.components] == ["orders", "stock"]
    report = backup(tmp_path / "2", Choice(wanted=(parse_selector("SQLite Writer:\\databases\\stock"),)))
    assert [one.name for one in report.components] == ["stock"]
    with pytest.raises(VssError, match=r"there is nothing to back up.*excluded by request"):
        backup(tmp_path / "3", Choice(excluded=(Selector("SQLite Writer"),)))
    with pytest.raises(VssError, match="no writer 'Nobody'"):
        backup(tmp_path / "3", Choice(wanted=(Selector("Nobody"),)))
    with pytest.raises(VssError, match="has no component"):
        backup(tmp_path / "3", Choice(wanted=(parse_selector("SQLite Writer:databases/none"),)))
    assert not (tmp_path / "3").exists()


def test_a_component_outside_the_volumes_is_dropped_or_fails_the_job(
    coordinator: Any, data: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = coordinator.writers[0].components
    replace_components(coordinator, *inside, group("elsewhere", FileSet(str(outside), "*")))
    report = backup(tmp_path / "b")
    assert not report.succeeded and len(report.components) == 2 and all(one.succeeded for one in report.components)
    assert report.left_out == report.dropped
    assert len(report.dropped) == 1 and "elsewhere" in report.dropped[0] and "unprotected" in report.dropped[0]
    with pytest.raises(VssError, match="must be in the backup and is not"):
        backup(tmp_path / "c", Choice(wanted=(parse_selector("SQLite Writer:elsewhere"),)))
    assert backup(tmp_path / "d", Choice(wanted=(parse_selector("SQLite Writer:databases/orders"),))).succeeded
    report = backup(tmp_path / "e", Choice(wanted=(Selector("SQLite Writer"),)))
    assert not report.succeeded and len(report.left_out) == 1


def test_what_the_user_excluded_and_what_is_empty_leaves_the_backup_whole(
    coordinator: Any, data: Path, tmp_path: Path
) -> None:
    outside = group("elsewhere", FileSet(str(tmp_path), "*"))
    coordinator.writers.append(WriterMetadata("33333333-0000-0000-0000-000000000003", "i3", "O", components=(outside,)))
    coordinator.writers.append(WriterMetadata("44444444-0000-0000-0000-000000000004", "i4", "Idle"))
    report = backup(tmp_path / "b", Choice(excluded=(Selector("O"),)))
    assert report.succeeded and not report.left_out and len(report.dropped) == 2


def test_files_that_need_no_shadow_copy_are_read_where_they_are(coordinator: Any, data: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "conf").write_bytes(b"conf")
    replace_components(coordinator, group("c", FileSet(str(outside), "*", mask=0x0F)))
    report = backup(tmp_path / "b")
    assert report.succeeded and report.files == 1 and report.volumes == []


def test_a_file_set_across_volumes_is_read_from_all_their_copies(coordinator: Any, data: Path, tmp_path: Path) -> None:
    wal = Path(coordinator.directory) / "wal"
    wal.mkdir()
    (wal / "0001").write_bytes(b"wal")
    coordinator.volumes["wal"] = str(wal)
    top = coordinator.directory
    replace_components(
        coordinator,
        group("both", FileSet(str(data), "*", recursive=True), FileSet(str(wal), "*")),
    )
    report = backup(tmp_path / "b")
    assert report.succeeded and report.volumes == ["data", "wal"]
    assert f"{top}/wal/0001" in {file.path for file in bundle.load(str(tmp_path / "b")).files}


def test_given_volumes_are_cut_as_well(coordinator: Any, data: Path, tmp_path: Path) -> None:
    (Path(coordinator.directory) / "more").mkdir()
    coordinator.volumes["more"] = f"{coordinator.directory}/more"
    assert backup(tmp_path / "b", Choice(volumes=("more",))).volumes == ["data", "more"]
    with pytest.raises(VssError, match="'none' is not protected"):
        backup(tmp_path / "c", Choice(volumes=("none",)))


# ---- the target ----


def test_a_target_on_a_volume_of_the_set_is_refused(coordinator: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(data)
    for target in (data / "backup", tmp_path / "way" / "backup"):
        with pytest.raises(VssError, match="lies on volume data, which this backup cuts"):
            backup(target)
        assert not target.exists()
    assert "do-snapshot-set" not in coordinator.names()


@pytest.mark.parametrize("call", ["gather-writer-metadata", "do-snapshot-set", "expose-snapshot", "save-as-xml"])
def test_nothing_is_left_of_a_backup_that_failed(coordinator: Any, data: Path, tmp_path: Path, call: str) -> None:
    coordinator.fail_on[call] = VssError(Code.VSS_E_UNEXPECTED, "no")
    with pytest.raises(VssError, match="no"):
        backup(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    coordinator.fail_on.clear()
    coordinator.die_on = call
    with pytest.raises(VssError, match=f"during {call}"):
        backup(tmp_path / "b")
    assert (tmp_path / "b").exists() == (call == "save-as-xml"), "files that are stored wait for the next backup"


@pytest.mark.parametrize("call", ["backup-complete", "gather-writer-status", "unexpose-snapshot"])
def test_a_backup_stands_before_the_writers_hear_of_it(coordinator: Any, data: Path, tmp_path: Path, call: str) -> None:
    seen = {}
    coordinator.on_call["save-as-xml"] = lambda session: setattr(coordinator, "die_on", call)
    coordinator.on_call["set-backup-succeeded"] = lambda session: seen.update(before=os.listdir(tmp_path / "b"))
    report = backup(tmp_path / "b")
    assert not report.succeeded and f"during {call}" in report.problems[0]
    assert "the backup is finished, but its writers may not know" in report.problems[0]
    manifest = bundle.load(str(tmp_path / "b"))
    bundle.verify_files(str(tmp_path / "b"), manifest.files, lambda count: None)
    assert sorted(seen["before"]) == ["UNFINISHED", "files"]


@contextlib.contextmanager
def small_file_system(place: Path, size: str) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a tmpfs")
def test_a_full_target_ends_the_job_clearly(coordinator: Any, data: Path, tmp_path: Path) -> None:
    (data / "db" / "stock" / "big").write_bytes(os.urandom(2 << 20))
    with small_file_system(tmp_path / "small", "1M"):
        with pytest.raises(VssError, match=r"there is no room to write .*No space left") as caught:
            backup(tmp_path / "small" / "b")
        assert caught.value.code == Code.VSS_E_INSUFFICIENT_STORAGE
        assert os.listdir(tmp_path / "small") == [], "the space comes back"
    assert "set-backup-succeeded" not in coordinator.names()
    assert "abort-backup" in coordinator.names()


# ---- the manifest ----


def test_the_manifest_comes_last(coordinator: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    real = engine.bundle.save

    def look(directory: str, manifest: Any) -> None:
        seen["before"] = sorted(os.listdir(directory))
        real(directory, manifest)

    monkeypatch.setattr(engine.bundle, "save", look)
    backup(tmp_path / "b")
    assert seen["before"] == ["BackupComponents.xml", "UNFINISHED", "WriterMetadata0.xml", "files"]
    assert sorted(os.listdir(tmp_path / "b")) == [
        "BackupComponents.xml",
        "WriterMetadata0.xml",
        "files",
        "manifest.json",
    ]
    assert stat.S_IMODE(os.stat(tmp_path / "b" / "manifest.json").st_mode) == 0o600


def damage(path: Path, change: Any) -> None:
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "damaged or cut short"),
        (lambda path: path.write_text("[1]"), "is not the manifest"),
        (lambda path: path.write_text("[" * 100_000), "damaged"),
        (lambda path: damage(path, lambda whole: whole.update(format=3)), "has format 3"),
        (lambda path: damage(path, lambda whole: whole["backup"].update(host="x")), "was altered"),
        (lambda path: damage(path, lambda whole: whole["backup"]["files"].pop()), "was altered"),
    ],
)
def test_a_manifest_that_is_not_what_was_written(
    coordinator: Any, data: Path, tmp_path: Path, change: Any, message: str
) -> None:
    backup(tmp_path / "b")
    change(tmp_path / "b" / "manifest.json")
    with pytest.raises(bundle.BundleError, match=message):
        bundle.load(str(tmp_path / "b"))


@pytest.mark.parametrize(
    "field", [{"path": "relative"}, {"path": "/a/../b"}, {"stored": "files/../../x"}, {"stored": "x"}]
)
def test_a_manifest_with_a_right_digest_and_wrong_places(
    coordinator: Any, data: Path, tmp_path: Path, field: dict[str, str]
) -> None:
    backup(tmp_path / "b")
    manifest = bundle.load(str(tmp_path / "b"))
    file = next(file for file in manifest.files if file.stored)
    for name, value in field.items():
        setattr(file, name, value)
    bundle.save(str(tmp_path / "b"), manifest)
    with pytest.raises(bundle.BundleError, match="impossible place"):
        bundle.load(str(tmp_path / "b"))


def test_a_type_full_backup_says_so(coordinator: Any, data: Path, tmp_path: Path) -> None:
    backup(tmp_path / "b", Choice(BackupType.FULL))
    assert coordinator.last_document().backup_type == BackupType.FULL
