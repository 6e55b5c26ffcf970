"""The command ``shadowset``: what it prints, what it ends with, and that it reads as finished."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester import cli
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Failure
from shadowset.vss.enums import Attribute, ComponentType, Context, SnapshotState, WriterState
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata
from shadowset.vss.requester_protocol import EventRecord, SetRecord, StartSnapshotSet, WriterStatus


@pytest.fixture
def two(coordinator: Any, data: Path) -> Any:
    """A coordinator with the volumes data and wal."""
    (Path(coordinator.directory) / "wal").mkdir()
    coordinator.volumes["wal"] = f"{coordinator.directory}/wal"
    return coordinator


@pytest.mark.parametrize("command", [("create", "data"), ("backup", "/nowhere")])
def test_a_time_to_wait_that_is_none(run: Any, command: tuple[str, ...]) -> None:
    for text in ("", "m", "10", "-1s", "ten", "1.5h"):
        status, _, err = run(*command, f"--wait={text}")
        assert status == 2 and "is no length of time" in err


def test_how_long_to_wait_reaches_the_coordinator(run: Any, two: Any) -> None:
    for words, wait_ms in (((), 600_000), (("--wait", "0s"), 0), (("--wait", "2h"), 7_200_000)):
        assert run("create", "data", *words)[0] == 0
        (call,) = [call for call in two.calls if isinstance(call, StartSnapshotSet)]
        assert call.wait_ms == wait_ms
        two.calls.clear()


# ---- help ----


def parsers(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from parsers(inner, f"{name} {word}".strip())


ALL = dict(parsers(cli.parser()))


def test_all_commands_are_there() -> None:
    assert set(ALL) == {
        "metrics", "undelete", "doctor", "explain", "setup", "config", "config show",
        "", "serve", "status", "volume", "volume add", "volume attach", "volume detach", "volume list", "volume remove",
        "volume resize",
        "volume handover", "volume fstab", "volume adopt", "volume release",
        "create", "list", "show", "mount", "umount", "expose", "unexpose", "device", "delete", "providers", "events",
        "writers", "writers detect", "writers test", "writers window",
        "backup", "restore",
        "storage", "storage list", "storage set", "storage move", "hold", "priority",
        "documents", "documents lint", "documents show", "documents json", "documents xml", "documents schema",
        "documents bundle", "documents verify",
        "revert", "delta", "verify", "restore-pending", "betest", "backups", "run",
        "page", "top", "extract", "selftest",
        "job", "job list", "job run", "job status", "job versions", "job clear", "job schedule", "job unschedule",
        "samba", "samba config", "samba check", "break", "export", "import",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_help_text_reads_as_finished(name: str, run: Any) -> None:
    status, out, err = run(*name.split(), "--help")
    assert status == 0 and err == ""
    assert "example:\n  shadowset " in out or "example:\n  umount" in out
    parser = ALL[name]
    assert parser.description and parser.description.endswith((".", "(3).")), "a description is sentences"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, f"{name}: {action.dest} is not explained"
        assert not action.help.endswith("."), f"{name}: {action.dest} ends like a sentence"
    assert all(len(line) <= 120 for line in (parser.description + (parser.epilog or "")).splitlines())


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_example_is_a_command_line_that_parses(name: str) -> None:
    import shlex

    lines = re.findall(r"^  (shadowset .*)$", (ALL[name].epilog or "").partition("example:")[2], re.M)
    for line in lines:
        cli.parser().parse_args(shlex.split(line)[1:])


def test_wrong_usage_ends_with_2(run: Any) -> None:
    for arguments in ((), ("nonsense",), ("delete", "--nonsense"), ("volume",), ("create",), ("create", "--pers", "x")):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "") and "usage: shadowset" in err


def test_help_needs_none_of_the_heavy_modules() -> None:
    code = "import sys; from shadowset.requester.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('msgspec', 'asyncio', 'socket', 'defusedxml', 'hashlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- no coordinator, failures ----


@pytest.mark.parametrize(
    "arguments", [("list",), ("status",), ("writers",), ("create", "data"), ("backup", "/nowhere/b")]
)
def test_no_coordinator_ends_with_2_and_says_how_to_start_it(
    run: Any, short_dir: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SHADOWSET_RUNTIME_DIR", short_dir)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err == (
        f"shadowset: no coordinator runs on {short_dir}/requester.sock; start it with 'shadowset serve' or "
        "'systemctl start shadowsetd'\n"
    )


def test_a_program_that_was_not_run_ends_with_125(
    run: Any, two: Any, short_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    program = ("run", "--volume", "data", "--", "touch", f"{tmp_path}/ran")
    two.fail_on["do-snapshot-set"] = VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, "writer X: no")
    status, out, err = run(*program)
    assert (status, out) == (125, "")
    assert err.endswith(
        "shadowset: the program was not run: writer X: no [VSS_E_WRITERERROR_NONRETRYABLE (0x800423F4)]\n"
    )
    monkeypatch.setenv("SHADOWSET_RUNTIME_DIR", f"{short_dir}/none")
    status, _, err = run(*program)
    assert status == 125 and err.startswith("shadowset: the program was not run: no coordinator runs")
    assert not (tmp_path / "ran").exists()


def test_a_failure_is_one_sentence_with_its_code(run: Any, coordinator: Any) -> None:
    coordinator.fail_on["query"] = VssError(Code.VSS_E_UNEXPECTED, "the catalogue is \x1b[31mred\nlook")
    status, out, err = run("list")
    assert (status, out) == (1, "")
    assert err == "shadowset: the catalogue is \\x1b[31mred\\x0alook [VSS_E_UNEXPECTED (0x80042302)]\n"


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("list",), "query"),
        (("writers",), "list-writers"),
        (("create", "data"), "do-snapshot-set"),
        (("volume", "list"), "volume-list"),
        (("events",), "list-events"),
    ],
)
def test_a_coordinator_that_dies_is_one_sentence(
    run: Any, coordinator: Any, data: Path, arguments: tuple[str, ...], call: str
) -> None:
    coordinator.die_on = call
    status, out, err = run(*arguments)
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert f"closed the connection during {call}" in err


# ---- create ----


@pytest.mark.parametrize(
    ("options", "context"),
    [
        ([], Context.APP_ROLLBACK),
        (["--no-writers"], Context.NAS_ROLLBACK),
        (["--context", "client-accessible"], Context.CLIENT_ACCESSIBLE),
        (["--context", "backup", "--persistent"], Context.APP_ROLLBACK),
        (["--exec", "true"], Context.BACKUP),
        (["--exec", "true", "--no-writers"], Context.FILE_SHARE_BACKUP),
    ],
)
def test_create_chooses_the_context(run: Any, two: Any, options: list[str], context: int) -> None:
    assert run("create", "data", *options)[0] == 0
    assert next(session.context for session in two.sessions if session.kind) == context
    with_writers = not context & Attribute.NO_WRITERS
    for call in ("gather-writer-metadata", "prepare-for-backup", "backup-complete"):
        assert (call in two.names()) == with_writers


def test_create_refuses_a_set_that_nobody_could_use(run: Any, two: Any) -> None:
    status, _, err = run("create", "data", "--context", "backup")
    assert status == 2 and "is deleted when this command ends; give --exec CMD" in err
    assert two.calls == []


def test_create_prints_the_set(run: Any, two: Any) -> None:
    status, out, _ = run("create", "data", "wal")
    assert status == 0
    assert re.match(r"Shadow copy set [0-9a-f-]{36}, made 2026-11-21 .* with 2 shadow copies\n", out)
    assert "HarddiskVolumeShadowCopy1" in out and "Persistent, No auto release, Differential" in out
    assert "cut within 0.250 ms" in out


def test_create_json(run: Any, two: Any) -> None:
    record = json.loads(run("create", "data", "--json")[1])
    assert record["created"] == "2026-11-21T10:00:00.123456Z"
    assert record["context"] == "APP_ROLLBACK" and record["status"] == "CREATED"
    assert record["snapshots"][0]["attributes"] == ["PERSISTENT", "NO_AUTO_RELEASE", "DIFFERENTIAL"]
    assert record["volumes"][0] == {
        "volume": "data", "drain_ms": 0.5, "hold_ms": 1.25, "waited": 3, "frozen_ms": 9.75, "cut_offset_ms": 0.1
    }  # fmt: skip


def test_create_exec(run: Any, two: Any, tmp_path: Path, eventually: Any) -> None:
    command = (
        f'cp -r "$SHADOWSET_MOUNT_DATA/db" {tmp_path}; echo "$SHADOWSET_SET_ID $SHADOWSET_COPY_WAL" > {tmp_path}/env'
    )
    status, out, _ = run("create", "data", "wal", "--exec", f"{command}; exit 7")
    assert (status, out) == (7, "")
    assert (tmp_path / "db/orders/orders.db").read_bytes() == b"orders" * 5000
    set_id, device = (tmp_path / "env").read_text().split()
    assert set_id in two.records and device.endswith("HarddiskVolumeShadowCopy2")
    assert eventually(lambda: not two.copies)


# ---- list, show ----


def test_list(run: Any, two: Any) -> None:
    assert run("list")[1] == "There are no shadow copies.\n"
    run("create", "data", "wal")
    run("create", "data")
    status, out, _ = run("list")
    assert status == 0 and out.count("Shadow copy set ") == 2
    lines = out.splitlines()
    header = lines[1]
    assert header.split() == ["SHADOW", "COPY", "ID", "VOLUME", "SIZE", "STATE", "ATTRIBUTES", "MOUNTED", "ON"]
    column = header.index("ATTRIBUTES")
    assert all(line[column:].startswith("Persistent") for line in lines if "Persistent" in line)
    assert run("list", "--volume", "wal")[1].count("HarddiskVolumeShadowCopy") == 1
    set_id = next(iter(two.records))
    assert run("list", "--set", set_id[:6])[1].count("HarddiskVolumeShadowCopy") == 2
    assert [copy["device_number"] for copy in json.loads(run("list", "--json")[1])] == [1, 2, 3]


def test_show_a_copy_has_vssadmins_fields(run: Any, two: Any) -> None:
    run("create", "data")
    copy = next(iter(two.copies.values()))
    by_id = (copy.snapshot_id, copy.snapshot_id[:7].upper(), "{" + copy.snapshot_id + "}")
    for name in (*by_id, "1", "HarddiskVolumeShadowCopy1", copy.device_object):
        status, out, _ = run("show", name)
        assert status == 0 and copy.snapshot_id in out
    machines = ("Originating machine", "Service machine")
    for field in ("Shadow copy set ID", "Original volume", "Shadow copy volume", *machines, "Provider", "Attributes"):
        assert re.search(f"^{field}: +[^ -]", out, re.M), field
    assert json.loads(run("show", "1", "--json")[1])["snapshot_id"] == copy.snapshot_id


def test_show_a_set(run: Any, two: Any) -> None:
    run("create", "data", "wal")
    set_id = next(iter(two.records))
    status, out, _ = run("show", set_id[:8])
    assert status == 0 and "Volumes cut within: 0.250 ms" in out and "FROZEN ms" in out and "SQLite Writer" in out
    assert "Timeline" not in out
    out = run("show", set_id[:8], "--timeline")[1]
    assert "Timeline" in out and "prepare-snapshot" in out
    assert run("show", "1", "--timeline")[1] == out
    assert len(json.loads(run("show", set_id, "--json")[1])["timeline"]) == 4


def test_show_a_set_that_failed(run: Any, two: Any) -> None:
    set_id = "99999999-9999-9999-9999-999999999999"
    failure = Failure(Code.VSS_E_HOLD_WRITES_TIMEOUT, 0, "volume data was held too long")
    two.records[set_id] = SetRecord(set_id, "s", 0, 0, SnapshotState.ABORTED, 0.0, [], [], [], [], failure)
    status, out, _ = run("show", set_id)
    assert status == 0 and "volume data was held too long [VSS_E_HOLD_WRITES_TIMEOUT (0x80042314)]" in out
    assert json.loads(run("show", set_id, "--json")[1])["failure"]["code"] == "VSS_E_HOLD_WRITES_TIMEOUT"


def test_ids_that_mean_nothing_or_too_much(run: Any, two: Any) -> None:
    run("create", "data", "wal")
    for copy, copy_id in zip(list(two.copies.values()), ("abc1" + "0" * 32, "abc2" + "0" * 32), strict=True):
        del two.copies[copy.snapshot_id]
        copy.snapshot_id = copy_id
        two.copies[copy_id] = copy
    status, _, err = run("show", "zzz")
    assert status == 1 and "there is no shadow copy or set 'zzz'; 'shadowset list' shows what there is" in err
    for command in (("delete", "data"), ("show", "data"), ("hold", "data", "--for", "1d")):
        status, _, err = run(*command)
        assert status == 1 and "'data' is a volume, not a shadow copy; 'shadowset list --volume data' shows" in err
    status, _, err = run("mount", "abc")
    assert status == 1 and "'abc' is the beginning of 2 ids" in err
    set_id = next(iter(two.records))
    for command in (
        ("hold", set_id, "--for", "1d"),
        ("revert", set_id),
        ("mount", set_id[:8]),
        ("priority", set_id, "1"),
    ):
        status, _, err = run(*command)
        assert status == 1 and "is a shadow copy set; name one of its copies: abc10000 (data), abc20000 (wal) [" in err
    assert run("mount", "abc2")[0] == 0


# ---- mount, delete ----


def test_mount_and_umount(run: Any, two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("create", "data")
    assert run("mount", "1")[1].strip().startswith(two.directory)
    assert run("umount", "HarddiskVolumeShadowCopy1")[0] == 0
    monkeypatch.chdir(tmp_path)
    answer = json.loads(run("mount", "1", "here", "--json")[1])
    assert answer["path"] == f"{tmp_path}/here"
    assert run("umount", "here")[0] == 0
    assert next(iter(two.copies.values())).exposed_name == ""


def test_delete(run: Any, two: Any) -> None:
    for _ in range(3):
        run("create", "data", "wal")
    ids = list(two.copies)
    assert run("delete", ids[0][:8])[1] == "1 shadow copy deleted: HarddiskVolumeShadowCopy1 of volume data.\n"
    assert run("delete", two.copies[ids[2]].snapshot_set_id, "2")[1].startswith("3 shadow copies deleted: ")
    assert json.loads(run("delete", "--volume", "data", "--oldest", "--json")[1])["deleted"] == 1
    run("mount", "6")
    status, out, err = run("delete", "6")
    assert status == 1 and out == "0 shadow copies deleted.\n" and "it is mounted" in err
    run("create", "data")
    place = next(copy.exposed_name for copy in two.copies.values() if copy.exposed_name)
    status, _, err = run("delete", "--all")
    assert status == 2 and "give --yes" in err and len(two.copies) == 2
    assert "HarddiskVolumeShadowCopy6 of volume wal, made " in err and f", mounted at {place}\n" in err
    assert "To be deleted are 2 shadow copies; nothing takes them back:" in err
    status, out, err = run("delete", "--all", "--yes")
    assert status == 1 and out == "1 shadow copy deleted: HarddiskVolumeShadowCopy7 of volume data.\n"
    assert "HarddiskVolumeShadowCopy6 of volume wal stays: it is mounted" in err
    told = json.loads(run("delete", "--all", "--yes", "--json")[1])
    assert [(each["name"], each["deleted"]) for each in told["copies"]] == [
        ("HarddiskVolumeShadowCopy6 of volume wal", False)
    ]
    assert run("delete", "--all", "--yes", "--force")[0] == 0 and not two.copies


def test_undelete_says_why_there_is_nothing(run: Any, two: Any) -> None:
    two.grace_ms = 1000
    assert run("undelete")[1] == "There are no deleted shadow copies that could be taken back.\n"
    two.grace_ms = 0
    assert "deletion is not delayed here" in run("undelete")[1]
    status, _, err = run("undelete", "1")
    assert status == 1 and "deletion_grace_ms" in err


@pytest.mark.parametrize(
    "arguments", [(), ("x", "--all"), ("--oldest",), ("--volume", "data"), ("--volume", "data", "--all", "--oldest")]
)
def test_delete_wants_sense(run: Any, coordinator: Any, arguments: tuple[str, ...]) -> None:
    assert run("delete", *arguments)[0] == 2 and coordinator.calls == []


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("crate", "data"), "there is no 'crate'; did you mean 'create'?"),
        (("volume", "lst"), "there is no 'lst'; did you mean 'list'?"),
        (("volume", "qqq"), "there is no 'qqq'; choose one of add, attach,"),
        (("volume", "attach", "data", "--via", "fsue"), "there is no 'fsue'; did you mean 'fuse'?"),
    ],
)
def test_a_word_that_is_not_known(run: Any, typed: tuple[str, ...], told: str) -> None:
    status, _, err = run(*typed)
    assert status == 2 and told in err


# ---- volumes, writers, events ----


def test_volumes(run: Any, two: Any) -> None:
    out = run("volume", "list")[1]
    assert out.splitlines()[0].split()[:3] == ["VOLUME", "STATE", "DEVICE"] and "64 MiB" in out
    assert json.loads(run("volume", "list", "--json")[1])[0]["name"] == "data"
    assert "attach more" in run("volume", "add", "more", "image", "--chunk-size", "64K", "--max-copies", "9")[1]
    call = two.calls[-1]
    assert (call.name, call.origin, call.storage, call.chunk_size, call.max_copies) == (
        "more", f"{os.getcwd()}/image", f"{two.paths.state}/storage/more", 65536, 9
    )  # fmt: skip
    assert "as /dev/shadowset/data (via fuse)" in run("volume", "attach", "data", "--via", "fuse")[1]
    status, _, err = run("volume", "detach", "data")
    assert status == 1 and "VSS_E_VOLUME_IN_USE" in err
    out = run("volume", "resize", "data")[1]
    assert f"{64 << 20} bytes" in out and "resize2fs /dev/shadowset/data for ext4" in out
    assert "not attached" in run("volume", "resize", "more")[1]
    out = run("volume", "handover", "data")[1]
    assert out.strip() == "Volume data is served by process 4321, version 2.0 (was 1.0); requests waited 7.2 ms."
    assert run("volume", "remove", "more")[0] == 0
    assert run("volume", "add", "x", "y", "--chunk-size", "lots")[0] == 2


def test_writers_and_events(run: Any, two: Any) -> None:
    writer = two.writers[0]
    two.status[writer.instance_id] = WriterStatus(
        writer.writer_id, writer.instance_id, "evil\x1b]0;name\u202e", WriterState.FAILED_AT_FREEZE,
        Failure(Code.VSS_E_WRITERERROR_RETRYABLE, 17, "busy"),
    )  # fmt: skip
    out = run("writers")[1]
    assert "[9] failed at freeze" in out and "VSS_E_WRITERERROR_RETRYABLE, application code 17: busy" in out
    assert "evil\\x1b]0;name\\u202e" in out and "\x1b" not in out and "\u202e" not in out
    assert f"Writer ID:          {writer.writer_id}" in run("writers", "--long")[1]
    assert json.loads(run("writers", "--json")[1])[0]["state"] == "FAILED_AT_FREEZE"
    two.events += [EventRecord(1, 1, "set-created", "one"), EventRecord(2, 10**9, "copy-lost", "\x07two", "data")]
    assert run("events")[1].splitlines()[1].endswith("copy-lost data: \\x07two")
    assert [event["id"] for event in json.loads(run("events", "--after", "1", "--json")[1])] == [2]
    two.writers.clear()
    assert run("writers")[1] == "No writer is registered.\n"


def test_providers(coordinator: Any, run: Any) -> None:
    out = run("providers")[1]
    assert "Fake provider" in out and "software" in out and "compliant, differential" in out
    (told,) = json.loads(run("providers", "--json")[1])
    assert (told["provider_id"], told["type"], told["copies"]) == ("p-1", "SOFTWARE", 0)


def test_status(run: Any, two: Any) -> None:
    assert "running, process" in run("status")[1]
    assert json.loads(run("status", "--json")[1])["volumes"] == 2


# ---- backup, restore ----


def test_backup_and_restore(run: Any, coordinator: Any, data: Path, tmp_path: Path) -> None:
    status, out, err = run("backup", str(tmp_path / "b"))
    assert status == 0 and err == "", "nothing on standard error where nobody watches"
    assert re.search(r"SQLite Writer +databases\\orders +backed up +2", out)
    (data / "db/orders/orders.db").write_bytes(b"newer")
    (data / "db/orders/extra").write_bytes(b"stale")
    status, out, _ = run("restore", str(tmp_path / "b"), "--component", "SQLite Writer:databases/orders")
    assert status == 0 and f"removed {data}/db/orders/extra, which is not in the backup" in out
    assert (data / "db/orders/orders.db").read_bytes() == b"orders" * 5000
    report = json.loads(run("restore", str(tmp_path / "b"), "--to", str(tmp_path / "look"), "--json")[1])
    assert report["succeeded"] and {one["status"] for one in report["components"]} == {"ALL"}


def test_backup_json_and_part_failures(run: Any, coordinator: Any, data: Path, tmp_path: Path) -> None:
    coordinator.component_failures["databases\\stock"] = Failure(Code.VSS_E_WRITERERROR_PARTIAL_FAILURE, 0, "torn")
    status, out, err = run("backup", str(tmp_path / "b"), "--json", "--type", "full")
    report = json.loads(out)
    assert status == 1 and report["succeeded"] is False and report["files"] == 2
    assert err == "shadowset: the backup is not complete: 1 of 2 components failed, 0 writers failed afterwards\n"
    status, _, err = run("restore", str(tmp_path / "b"), "--component", "SQLite Writer:databases/stock")
    assert status == 1 and "the backup of component databases\\stock of writer SQLite Writer failed" in err


def test_a_writer_that_does_not_describe_itself(run: Any, two: Any, tmp_path: Path) -> None:
    two.writers.append(WriterMetadata("33333333-0000-0000-0000-000000000003", "i3", "Hung Writer"))
    two.silent.add("i3")
    status, out, err = run("backup", str(tmp_path / "b"))
    assert status == 1 and "backed up" in out
    assert "\nshadowset: writer Hung Writer of process 1234 is left out: it did not describe itself when asked" in err
    assert run("backup", str(tmp_path / "c"), "--exclude-writer", "Hung Writer")[::2] == (0, "")
    status, out, err = run("create", "data")
    assert status == 1 and "Shadow copy set" in out
    assert err == (
        "shadowset: the set was made, but writer Hung Writer did not describe itself when asked and took no part\n"
    )
    assert run("create", "data", "--no-writers")[::2] == (0, "")
    assert run("create", "data", "--context", "client-accessible")[::2] == (0, "")  # asks no writers


def test_a_component_that_cannot_be_had(run: Any, coordinator: Any, data: Path, tmp_path: Path) -> None:
    files = (FileSet(str(tmp_path), "*"),)
    outside = ComponentInfo(ComponentType.FILEGROUP, "elsewhere", files=files)
    coordinator.writers.append(WriterMetadata("33333333-0000-0000-0000-000000000003", "i3", "O", components=(outside,)))
    status, _, err = run("backup", str(tmp_path / "b"))
    assert "0 of 2 components failed, 0 writers failed afterwards, 1 left out\n" in err
    assert status == 1 and "shadowset: component elsewhere of writer O is left out" in err and "unprotected" in err
    status, out, err = run("backup", str(tmp_path / "c"), "--exclude-writer", "O")
    assert (status, err) == (0, "") and "excluded by request" in out


def test_a_backup_below_a_directory_that_is_not_there(run: Any, coordinator: Any, data: Path, tmp_path: Path) -> None:
    status, _, err = run("backup", f"{tmp_path}/disk/monday")
    assert status == 1 and f"there is no directory {tmp_path}/disk for the target; mount its file system" in err
    assert not (tmp_path / "disk").exists() and not coordinator.copies


def test_the_demonstration_says_what_it_does() -> None:
    command = [sys.executable, "-m", "shadowset.requester.demo", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("usage: python -m shadowset.requester.demo") and "Needs root" in done.stdout


def test_a_backup_that_cannot_be_written(run: Any, coordinator: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("a file")
    status, _, err = run("backup", str(tmp_path / "b"))
    assert status == 1 and err.startswith("shadowset: the target") and "Traceback" not in err


# ---- signals and pipes ----


def started(*arguments: str) -> subprocess.Popen[str]:
    code = "import sys; from shadowset.requester.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("command", ["create", "backup"])
def test_control_c_aborts_the_session_and_ends_with_130(
    coordinator: Any, data: Path, tmp_path: Path, eventually: Any, command: str
) -> None:
    coordinator.hang_on = "do-snapshot-set"
    process = started(command, "data" if command == "create" else str(tmp_path / "b"))
    try:
        assert eventually(lambda: "do-snapshot-set" in coordinator.names(), 15)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (130, "")
    assert err == "shadowset: interrupted; the session was aborted\n"
    assert coordinator.names()[-1] == "abort-backup" and not (tmp_path / "b").exists()


def test_a_reader_that_has_enough(coordinator: Any) -> None:
    coordinator.events += [EventRecord(number, number, "x", "y" * 500) for number in range(1, 3000)]
    process = started("events")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(15) == 1


def test_serve_becomes_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: seen.append((path, arguments)) or sys.exit(0))
    with pytest.raises(SystemExit):
        cli.main(["serve", "--log-level", "debug"])
    assert seen == [(sys.executable, [sys.executable, "-m", "shadowset.daemon.main", "--log-level", "debug"])]


@pytest.mark.parametrize(("call", "stays"), [("save-as-xml", False), ("backup-complete", True)])
def test_termination_cleans_up_like_control_c(
    coordinator: Any, data: Path, tmp_path: Path, eventually: Any, call: str, stays: bool
) -> None:
    coordinator.hang_on = call
    process = started("backup", str(tmp_path / "b"))
    try:
        assert eventually(lambda: call in coordinator.names(), 60)
        assert (tmp_path / "b" / "files").exists()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (143, "")
    assert coordinator.names()[-1] == "abort-backup"
    assert (tmp_path / "b").exists() == (tmp_path / "b/manifest.json").exists() == stays


def test_a_set_that_a_writer_failed_in_is_told(run: Any, two: Any) -> None:
    writer = two.writers[0]
    two.status[writer.instance_id] = WriterStatus(
        writer.writer_id, writer.instance_id, writer.name, WriterState.FAILED_AT_POST_SNAPSHOT
    )
    status, out, err = run("create", "data")
    assert status == 1 and "Shadow copy set" in out
    assert err == "shadowset: the set was made, but writer SQLite Writer failed at post snapshot\n"


def test_progress_is_shown_on_a_terminal(coordinator: Any, data: Path, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    code = "import sys; from shadowset.requester.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "backup", str(tmp_path / "b")],
        stdout=subprocess.PIPE, stderr=theirs, check=True, text=True,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "making the shadow copies …" in shown
    assert re.search(r"copying the files: 53\.7 KiB of 53\.7 KiB \(100%\), .*/s\r\n", shown)
    assert "backed up" in done.stdout


def test_names_that_the_terminal_cannot_show(coordinator: Any, data: Path) -> None:
    coordinator.volumes["größe"] = ""
    code = "import sys; from shadowset.requester.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code, "volume", "list"], env=environment, capture_output=True, text=True, check=True
    )
    assert "gr\\xf6\\xdfe" in done.stdout
