"""All kinds of backups against the test writer: what each takes, and what its writer hears of it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.kinds import Unsupported
from shadowset.requester.backup.plan import Choice
from shadowset.requester.cli.backup import report_text
from shadowset.requester.restore.extract import extracted
from shadowset.vss.codes import Code, VssError
from shadowset.vss.documents import components_from_xml
from shadowset.vss.enums import BackupType

COPY, FULL, LOG = BackupType.COPY, BackupType.FULL, BackupType.LOG
INCREMENTAL, DIFFERENTIAL = BackupType.INCREMENTAL, BackupType.DIFFERENTIAL
SCHEMA = "supports_copy = true\nsupports_incremental = true\nsupports_differential = true\nsupports_log = true\n"
METHOD = '[restore_method]\nmethod = "RESTORE_IF_CAN_REPLACE"\n'
OLD = 1_600_000_000_000_000_000


def files_writer(files: str = "", component: str = "", top: str = SCHEMA, more: str = "") -> str:
    """A file group of ``{data}/*`` whose files are only taken by increments as ``component`` says."""
    flags = "inc_backup_required = false, diff_backup_required = false, {live}"
    listed = files or f'{{ path = "{{data}}", filespec = "*", {flags} }}'
    return (
        f'{top}{METHOD}[[component]]\ncomponent_type = "filegroup"\ncomponent_name = "files"\n{component}\n'
        f"component_file = [{listed}]\n{more}"
    )


STAMPED = 'stamps = true\ndifferenced_file = [{ path = "{data}", filespec = "*", since = 0 }]\n'


def database_writer(more: str = "") -> str:
    return (
        f'{SCHEMA}cut_logs = true\n{METHOD}[[component]]\ncomponent_type = "database"\ncomponent_name = "db"\n{more}'
        'component_file = [{ path = "{data}", filespec = "*.db", {live} },'
        ' { path = "{data}", filespec = "*.log", log_file = true, {live} }]\n'
    )


def taken(service: Any, name: str) -> dict[str, str]:
    """Kind of each file in a backup, by its name."""
    manifest = bundle.load(str(service.directory / name))
    kinds = (bundle.REGULAR, bundle.UNCHANGED, bundle.RANGES_FILE)
    return {os.path.basename(file.path): file.kind for file in manifest.files if file.kind in kinds}


def stored(service: Any, name: str, file_name: str) -> tuple[bundle.ManifestFile, bytes]:
    manifest = bundle.load(str(service.directory / name))
    file = next(file for file in manifest.files if os.path.basename(file.path) == file_name)
    return file, (service.directory / name / file.stored).read_bytes()


def since(service: Any, name: str, base: str, kind: BackupType = INCREMENTAL, **fields: Any) -> Any:
    return service.backup(name, Choice(kind, base=str(service.directory / base), **fields))


def write(path: Path, contents: bytes, time_ns: int = 0) -> None:
    path.write_bytes(contents)
    if time_ns:
        os.utime(path, ns=(time_ns, time_ns))


@pytest.mark.vss(58)
def test_only_backups_that_writers_count_cut_logs(service: Any) -> None:
    write(service.data / "a.db", b"data")
    write(service.data / "1.log", b"one")
    service.writer(database_writer())
    assert service.backup("copy", Choice(COPY)).succeeded
    assert (service.data / "1.log").exists() and taken(service, "copy").keys() == {"a.db", "1.log"}
    assert service.backup("full", Choice(FULL)).succeeded
    assert not (service.data / "1.log").exists(), "a full backup that succeeded"
    write(service.data / "2.log", b"two")
    report = since(service, "log", "full", LOG)
    assert report.succeeded and report.base == str(service.directory / "full")
    assert taken(service, "log") == {"2.log": "file"} and not (service.data / "2.log").exists()


@pytest.mark.vss(59, 60)
def test_increments_take_what_changed_since_the_stamp(service: Any) -> None:
    for name in ("same", "changed", "touched", "removed"):
        write(service.data / name, name.encode(), OLD)
    service.writer(files_writer(component=STAMPED))
    service.backup("full", Choice(FULL))
    write(service.data / "changed", b"other")
    write(service.data / "new", b"new", OLD)
    os.utime(service.data / "touched")
    (service.data / "removed").unlink()
    assert since(service, "one", "full").succeeded
    assert taken(service, "one") == {"same": "unchanged", "changed": "file", "touched": "file", "new": "file"}
    first = bundle.load(str(service.directory / "one"))
    assert first.components[0].gone == [str(service.data / "removed")] and not first.components[0].whole
    stamps = [document(service, name).writers[0].components[0] for name in ("full", "one")]
    assert stamps[1].previous_backup_stamp == stamps[0].backup_stamp < stamps[1].backup_stamp
    assert since(service, "two", "one").succeeded
    assert set(taken(service, "two").values()) == {"unchanged"}
    assert since(service, "differential", "full", DIFFERENTIAL).succeeded
    assert taken(service, "differential") == taken(service, "one"), "since the full one, not since the increments"


def document(service: Any, name: str) -> Any:
    return components_from_xml((service.directory / name / bundle.COMPONENTS_DOCUMENT).read_bytes())


@pytest.mark.vss(60)
def test_time_zero_is_our_own_judgement(service: Any) -> None:
    zero = 'differenced_file = [{ path = "{data}", filespec = "*", since = 0 }]\n'
    for name in ("same", "size", "time", "mode"):
        write(service.data / name, b"x", OLD)
    service.writer(files_writer(component=zero))
    service.backup("full", Choice(FULL))
    write(service.data / "size", b"xx", OLD)
    os.utime(service.data / "time", ns=(OLD, OLD + 1))
    (service.data / "mode").chmod(0o600)
    write(service.data / "new", b"x", OLD)
    since(service, "one", "full")
    assert taken(service, "one") == {"same": "unchanged", "size": "file", "time": "file", "mode": "file", "new": "file"}


@pytest.mark.vss(62)
def test_a_log_sequence_number_means_contents(service: Any) -> None:
    lsn = 'differenced_file = [{ path = "{data}", filespec = "*", lsn = "0/16B3748" }]\n'
    for name in ("same", "changed"):
        write(service.data / name, b"old", OLD)
    service.writer(files_writer(component=lsn))
    service.backup("full", Choice(FULL))
    os.utime(service.data / "same")
    write(service.data / "changed", b"new", OLD)
    assert since(service, "one", "full").succeeded
    assert taken(service, "one") == {"same": "unchanged", "changed": "file"}, "times say the opposite"
    assert document(service, "one").writers[0].components[0].differenced_files[0].lsn == "0/16B3748"


@pytest.mark.vss(61)
def test_parts_of_files(service: Any) -> None:
    contents = os.urandom(400)
    for name in ("inline", "listed", "whole"):
        write(service.data / name, contents)
    (service.data / "elsewhere").mkdir()
    (service.data / "elsewhere/ranges").write_bytes(struct.pack("<5Q", 2, 100, 50, 0, 8))
    parts = (
        'partial_file = [{ path = "{data}", filespec = "inline", ranges = "0:5,0x64:0x14" },'
        ' { path = "{data}", filespec = "listed", ranges = "{data}/elsewhere/ranges" }]\n'
    )
    service.writer(files_writer(component=parts))
    assert service.backup("full", Choice(FULL)).succeeded
    file, data = stored(service, "full", "inline")
    assert data == contents[:5] + contents[100:120] and (file.ranges, file.whole_size) == ("0:5,100:20", 400)
    assert stored(service, "full", "listed")[1] == contents[100:150] + contents[:8]
    assert stored(service, "full", "whole")[1] == contents
    assert taken(service, "full")["ranges"] == "ranges-file"
    with extracted(str(service.directory / "full"), f"{service.data}/listed") as source:
        assert os.read(source, 500) == contents[:8] + bytes(92) + contents[100:150] + bytes(250)


@pytest.mark.vss(61)
@pytest.mark.parametrize(
    ("filename", "ranges", "words"),
    [
        ("file", "0:5,90:20", "ends behind its end at 100 bytes"),
        ("none", "0:5", "names parts of"),
        ("file", "{data}/bad", "overlap"),
        ("file", "{data}/short", "does not hold the number of ranges"),
        ("file", "{data}/missing", "names the ranges file"),
    ],
)
def test_parts_that_cannot_be(service: Any, filename: str, ranges: str, words: str) -> None:
    write(service.data / "file", b"x" * 100)
    write(service.data / "bad", struct.pack("<5Q", 2, 0, 50, 40, 8))
    write(service.data / "short", struct.pack("<2Q", 2, 0))
    service.writer(
        files_writer(
            component=f'partial_file = [{{ path = "{{data}}", filespec = "{filename}", ranges = "{ranges}" }}]\n'
        )
    )
    report = service.backup("full", Choice(FULL))
    assert not report.succeeded and words in report.components[0].reason


def test_a_file_that_is_differenced_and_partial_goes_by_the_differenced_entry(service: Any) -> None:
    write(service.data / "both", b"x" * 100)
    service.writer(
        files_writer(component=STAMPED + 'partial_file = [{ path = "{data}", filespec = "both", ranges = "0:5" }]\n')
    )
    service.backup("full", Choice(FULL))
    write(service.data / "both", b"y" * 100)
    report = since(service, "one", "full")
    assert stored(service, "one", "both")[1] == b"y" * 100
    assert "both is taken as a differenced file" in report.skipped[0]


# ---- what cannot build on the base ----


@pytest.mark.vss(53)
def test_writers_that_do_not_make_such_backups(service: Any) -> None:
    write(service.data / "file", b"x")
    service.writer(files_writer(top='writer_name = "Plain"\n'))
    service.backup("full", Choice(FULL))
    report = since(service, "one", "full")
    assert report.succeeded and report.components[0].why == "writer Plain makes no incremental backups"
    assert taken(service, "one") == {"file": "file"} and bundle.load(report.target).components[0].whole
    assert "is whole: writer Plain makes no incremental backups" in report_text(report)
    with pytest.raises(VssError, match=r"no incremental backup of everything: .*Plain.*make a full one") as caught:
        since(service, "two", "full", unsupported=Unsupported.REFUSE)
    assert caught.value.code == Code.VSS_E_NOT_SUPPORTED and not (service.directory / "two").exists()
    with pytest.raises(VssError, match="nothing to back up: writer Plain makes no incremental"):
        since(service, "two", "full", unsupported=Unsupported.SKIP)


@pytest.mark.vss(53)
def test_only_those_that_can_are_in_the_backup(service: Any) -> None:
    (service.data / "plain").mkdir()
    service.writer(files_writer(component=STAMPED))
    plain = files_writer('{ path = "{data}/plain", filespec = "*", {live} }', top='writer_name = "Plain"\n')
    service.writer(plain.replace('"files"', '"plain"'))
    service.backup("full", Choice(FULL))
    report = since(service, "one", "full", unsupported=Unsupported.SKIP)
    assert report.succeeded and [each.name for each in report.components] == ["files"]
    assert report.dropped == ["component plain of writer Plain is left out: writer Plain makes no incremental backups"]


@pytest.mark.vss(56)
def test_a_component_that_is_described_otherwise_than_in_the_base_is_whole(service: Any) -> None:
    write(service.data / "file", b"x")
    first = service.writer(files_writer(component=STAMPED))
    service.backup("full", Choice(FULL))
    service.stop(first)
    service.writer(files_writer('{ path = "{data}", filespec = "f*", {live} }', STAMPED))
    report = since(service, "one", "full")
    assert "describes it otherwise than for" in report.components[0].why
    assert not document(service, "one").writers[0].components[0].previous_backup_stamp


def test_a_component_that_failed_in_the_base_is_whole(service: Any) -> None:
    write(service.data / "file", b"x")
    failing = (
        '[[action]]\nwriter_event = "PostSnapshot"\ntimes = 1\nfail_component = [{ component_name = "files", '
        'code = "VSS_E_WRITERERROR_RETRYABLE", application_code = 17, message = "torn" }]\n'
    )
    service.writer(files_writer(component=STAMPED, more=failing))
    report = service.backup("full", Choice(FULL))
    assert "torn (at post-snapshot) [VSS_E_WRITERERROR_RETRYABLE" in report.components[0].reason
    assert "the application's code is 17" in report.components[0].reason
    report = since(service, "one", "full")
    assert report.succeeded and report.components[0].why.endswith("failed") and taken(service, "one")["file"] == "file"


@pytest.mark.parametrize(
    ("kind", "base", "words"),
    [
        (INCREMENTAL, "", "name its directory with --base"),
        (COPY, "full", "a copy backup builds on no other one"),
        (INCREMENTAL, "copy", "an incremental backup builds on a full .* is a copy backup; name another base"),
        (DIFFERENTIAL, "one", "builds on a full backup"),
        (INCREMENTAL, "nowhere", "is missing"),
    ],
)
def test_bases_that_will_not_do(service: Any, kind: BackupType, base: str, words: str) -> None:
    service.writer(files_writer(component=STAMPED))
    service.backup("full", Choice(FULL))
    service.backup("copy", Choice(COPY))
    since(service, "one", "full")
    with pytest.raises(VssError, match=words):
        service.backup("b", Choice(kind, base=str(service.directory / base) if base else ""))
    assert not (service.directory / "b").exists()


# ---- files made for the backup ----


@pytest.mark.vss(45)
def test_files_are_read_from_the_alternate_path(service: Any) -> None:
    write(service.data / "a.txt", b"spat")
    sets = '{ path = "{data}", filespec = "*.txt", alternate_path = "{data}/spit", {live} }'
    service.writer(files_writer(sets, more='[[action]]\nwriter_event = "Freeze"\nmark = "{data}/a.txt"\n'))
    assert service.backup("copy").succeeded
    assert (service.data / "a.txt").read_bytes() == b"freeze", "changed after it was spat"
    file, data = stored(service, "copy", "a.txt")
    assert data == b"spat" and file.path == str(service.data / "a.txt")


@pytest.mark.vss(65)
def test_failure_messages_of_each_phase_are_shown(service: Any) -> None:
    for event, phase in (("PrepareForBackup", "prepare-backup"), ("PostSnapshot", "post-snapshot")):
        failing = (
            f'[[action]]\nwriter_event = "{event}"\nfail_component = [{{ component_name = "files", '
            f'code = "VSS_E_WRITERERROR_TIMEOUT", message = "too slow" }}]\n'
        )
        writer = service.writer(files_writer(more=failing))
        report = service.backup(phase)
        assert f"its writer says: too slow (at {phase}) [VSS_E_WRITERERROR_TIMEOUT" in report_text(report)
        service.stop(writer)
