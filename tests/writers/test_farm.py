"""The farm as a process under load, taken through backup and restore by a coordinator that the test plays."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.vss.codes import Code
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, Level, RestoreMethodType, WriterEvent, WriterRestore
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.naming import component_identity
from shadowset.writers.sqlite.naming import SQLITE_WRITER_ID

E = WriterEvent
Make = Callable[..., Any]
WHOLE = [Component(ComponentType.FILEGROUP, "", "Farm")]


def files_of(farm: Any) -> list[Path]:
    """The farm's own files, the third party's not among them."""
    roots = [Path(farm.a), Path(farm.b)]
    found = [file for root in roots for file in root.rglob("*") if file.is_file()]
    return [file for file in found if not file.name.startswith("crm.db")]


def fingerprint(farm: Any) -> dict[str, str]:
    found = {}
    for file in files_of(farm):
        try:
            found[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()
        except FileNotFoundError:
            continue  # a running farm makes and removes journals
    return found


def copy_of(farm: Any, directory: Path) -> tuple[str, str]:
    a, b = str(directory / "a"), str(directory / "b")
    shutil.copytree(farm.a, a)
    shutil.copytree(farm.b, b)
    return a, b


def freeze(side: Any, components: list[Component] = WHOLE) -> None:
    side.ok(E.PREPARE_BACKUP, components=components)
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE, level=Level.FRONT_END)


def selected(*components: Component, **fields: Any) -> list[Component]:
    return [
        Component(item.type, item.logical_path, item.name, selected_for_restore=True, **fields) for item in components
    ]


def overwrite(farm: Any) -> None:
    """The catastrophe: every file is truncated and filled with garbage, memory-mapped ones too."""
    for root in (farm.a, farm.b):
        for file in Path(root).rglob("*"):
            if file.is_file() and file.name != "farm.lock":
                file.write_bytes(os.urandom(max(4096, file.stat().st_size // 2)))


def put_back(farm: Any, a: str, b: str) -> None:
    for source, target in ((a, farm.a), (b, farm.b)):
        for file in Path(source).rglob("*"):
            if file.is_file() and file.name != "farm.lock":
                place = Path(target) / file.relative_to(source)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)
        for side_file in Path(target).glob("*.db-*"):
            if not (Path(source) / side_file.name).exists():
                side_file.unlink()


def test_the_metadata_describes_the_farm(coordinator: Any, make_farm: Make) -> None:
    farm = make_farm("--no-load")
    side = coordinator.writer()
    assert side.hello.level == Level.FRONT_END
    metadata = side.ok(E.IDENTIFY).metadata
    paths = {component.full_path: component for component in metadata.components}
    assert set(paths) == {
        "Farm",
        "Farm\\Config",
        "Farm\\Content\\content_a",
        "Farm\\Content\\content_b",
        "Farm\\Search\\main",
        "Farm\\ThirdParty\\crm",
    }
    assert {path for path, component in paths.items() if component.selectable} == {
        "Farm",
        "Farm\\Content\\content_a",
        "Farm\\Content\\content_b",
    }
    assert metadata.restore_method.method == RestoreMethodType.RESTORE_IF_CAN_REPLACE
    assert metadata.restore_method.writer_restore == WriterRestore.ALWAYS
    for path in ("Farm", "Farm\\ThirdParty\\crm"):
        (dependency,) = paths[path].dependencies
        assert dependency.writer_id == SQLITE_WRITER_ID
        assert (dependency.logical_path, dependency.component_name) == component_identity(f"{farm.b}/crm.db")
    assert paths["Farm\\Content\\content_b"].database_files[0].path == farm.b
    assert paths["Farm\\Search\\main"].files[0].path == f"{farm.b}/index"


def test_frozen_means_frozen_and_its_copy_is_sound(coordinator: Any, make_farm: Make, tmp_path: Path) -> None:
    farm = make_farm()
    side = coordinator.writer()
    farm.wait_for_work()
    freeze(side)
    before = fingerprint(farm)
    a, b = copy_of(farm, tmp_path / "copy")
    reads = farm.lines[-1]["reads"]
    frozen = farm.wait_for(lambda line: line["state"] == "frozen" and line["reads"] > reads)
    again = farm.wait_for(lambda line: line["reads"] > frozen["reads"])
    assert (again["transfers"], again["documents"]) == (frozen["transfers"], frozen["documents"])
    assert fingerprint(farm) == before, "frozen means frozen"
    side.ok(E.THAW)
    answer = side.ok(E.POST_SNAPSHOT, components=WHOLE)
    assert answer.components[0].backup_stamp
    farm.wait_for_work()
    assert fingerprint(farm) != before
    assert farm.wait_for(lambda line: line["frozen_ms"] > 0)["errors"] == 0
    remove_third_party_side_files(b)
    status, report = farm.check(a, b)
    assert (status, report["problems"]) == (0, [])
    assert report["documents"] == report["indexed"] > 0
    assert report["transfers_under_way"] == 0
    assert f'"money": {report["money"]}' in answer.components[0].backup_metadata


def remove_third_party_side_files(b: str) -> None:
    """The third party was not frozen in this test: what was copied of its log has no meaning."""
    connection = sqlite3.connect(f"{b}/empty.db")
    connection.executescript("CREATE TABLE orders (id, total); CREATE TABLE lines (order_id, amount);")
    connection.close()
    os.replace(f"{b}/empty.db", f"{b}/crm.db")
    for suffix in ("-wal", "-shm"):
        Path(f"{b}/crm.db{suffix}").unlink(missing_ok=True)


def test_two_writers_freeze_one_set(coordinator: Any, make_farm: Make, processes: Any, tmp_path: Path) -> None:
    """The farm, and the SQLite writer for the third party's database: the dependency leads to a component it has."""
    farm, side, sqlite_side, third = start_both(coordinator, make_farm, processes)
    freeze(side)
    sqlite_side.ok(E.PREPARE_BACKUP, components=[third])
    sqlite_side.ok(E.PREPARE_SNAPSHOT)
    sqlite_side.ok(E.FREEZE, level=Level.BACK_END)
    before = {**fingerprint(farm), **third_party_fingerprint(farm)}
    a, b = copy_of(farm, tmp_path / "copy")
    time.sleep(0.4)
    assert {**fingerprint(farm), **third_party_fingerprint(farm)} == before
    sqlite_side.ok(E.THAW)
    side.ok(E.THAW)
    farm.wait_for_work()
    status, report = farm.check(a, b)
    assert (status, report["problems"]) == (0, [])
    assert report["orders"] > 0

    overwrite(farm)
    farm.wait_for(lambda line: line["state"] == "damaged")
    waiting = sqlite_side.post(
        E.PRE_RESTORE, components=selected(third)
    )  # it comes first, and has to wait for the farm
    side.ok(E.PRE_RESTORE, components=selected(*WHOLE))
    assert sqlite_side.reply(waiting).code == 0
    put_back(farm, a, b)
    sqlite_side.ok(E.POST_RESTORE, components=selected(third))
    side.ok(E.POST_RESTORE, components=selected(*WHOLE))
    farm.wait_for_work()
    farm.stop()
    status, report = farm.check()
    assert (status, report["problems"]) == (0, [])


def start_both(coordinator: Any, make_farm: Make, processes: Any) -> tuple[Any, Any, Any, Component]:
    farm = make_farm()
    side = coordinator.writer()
    processes.start("-m", "shadowset.writers.sqlite.main", f"{farm.b}/crm.db")
    sqlite_side = coordinator.writer()
    metadata = side.ok(E.IDENTIFY).metadata
    dependency = metadata.component("", "Farm").dependencies[0]
    assert sqlite_side.hello.writer_id == dependency.writer_id
    found = sqlite_side.ok(E.IDENTIFY).metadata.component(dependency.logical_path, dependency.component_name)
    assert found is not None
    farm.wait_for(lambda line: line["orders"] > 0)
    farm.wait_for_work()
    return farm, side, sqlite_side, Component(found.type, found.logical_path, found.name)


def third_party_fingerprint(farm: Any) -> dict[str, str]:
    files = [Path(farm.b, "crm.db"), Path(farm.b, "crm.db-wal")]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_copies_of_two_instants_break_the_money(make_farm: Make, tmp_path: Path) -> None:
    """The check can fail: each database is copied soundly, but not at the same instant as the other."""
    farm = make_farm("--no-writer", "--pause-ms", "0")
    farm.wait_for_work()
    broken = 0
    for attempt in range(8):
        directory = tmp_path / str(attempt)
        for place, file in (("b", "content_b.db"), ("b", "crm.db"), ("a", "content_a.db"), ("a", "config.db")):
            (directory / place).mkdir(parents=True, exist_ok=True)
            source = sqlite3.connect(getattr(farm, place) + "/" + file, timeout=30)
            target = sqlite3.connect(directory / place / file)
            source.backup(target)
            source.close()
            target.close()
            time.sleep(0.05)
        (directory / "b" / "index").mkdir()
        status, report = farm.check(str(directory / "a"), str(directory / "b"), "--allow-pending")
        broken += any("money" in problem for problem in report["problems"])
        assert (status == 1) == bool(report["problems"])
    assert broken >= 2


def test_a_copy_whose_index_is_older_than_its_documents_fails(
    coordinator: Any, make_farm: Make, tmp_path: Path
) -> None:
    farm = make_farm()
    side = coordinator.writer()
    farm.wait_for_work()
    freeze(side)
    old = tmp_path / "old-index"
    shutil.copytree(f"{farm.b}/index", old)
    side.ok(E.THAW)
    farm.wait_for_work()
    farm.stop()
    assert farm.check()[0] == 0
    shutil.rmtree(f"{farm.b}/index")
    shutil.copytree(old, f"{farm.b}/index")
    status, report = farm.check()
    assert status == 1
    assert report["not_indexed"] > 0
    assert farm.check("", "", "--allow-pending")[0] == 0


def test_a_killed_farm_finishes_what_was_under_way(make_farm: Make) -> None:
    farm = make_farm("--no-writer", "--pause-ms", "0")
    for _ in range(3):
        farm.wait_for_work()
        farm.process.send_signal(signal.SIGKILL)
        farm.process.wait()
        status, report = farm.check("", "", "--allow-pending")
        assert (status, report["problems"]) == (0, [])
        farm.start("--no-writer", "--pause-ms", "0")
    farm.wait_for_work()
    farm.stop()
    assert farm.check()[0] == 0


def test_abort_and_a_lost_coordinator_let_the_farm_go_on(coordinator: Any, make_farm: Make) -> None:
    farm = make_farm()
    side = coordinator.writer()
    for end in (lambda: side.ok(E.ABORT), side.drop):
        freeze(side)
        end()
        farm.wait_for_work()
    side = coordinator.writer()
    freeze(side)
    coordinator.stop()
    farm.wait_for_work()


def test_the_farm_releases_itself_when_thaw_does_not_come(coordinator: Any, make_farm: Make) -> None:
    farm = make_farm("--freeze-timeout-ms", "1000")
    side = coordinator.writer()
    freeze(side)
    farm.wait_for_work()
    answer = side.ask(E.THAW)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_TIMEOUT)


def test_the_last_backup_is_recorded_only_when_it_succeeded(coordinator: Any, make_farm: Make, processes: Any) -> None:
    farm = make_farm("--no-load")
    side = coordinator.writer()
    for succeeded in (False, True):
        freeze(side)
        side.ok(E.THAW)
        component = Component(ComponentType.FILEGROUP, "", "Farm", backup_succeeded=succeeded)
        side.ok(E.BACKUP_COMPLETE, components=[component])
        status = processes.run("-m", "shadowset.writers.farm.main", "status", farm.a, farm.b, "--json").stdout
        assert ('"last_backup": ""' in status) != succeeded
        assert '"running": true' in status


def test_volumes_that_are_left_out_are_reported_without_veto(coordinator: Any, make_farm: Make) -> None:
    farm = make_farm("--no-load")
    side = coordinator.writer()
    answer = side.ask(E.PREPARE_SNAPSHOT, volumes=[EventVolume("one", [farm.a])])
    assert (answer.veto, answer.code) == (False, Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT)
    assert farm.b in answer.message
    assert farm.a not in answer.message


def test_the_farm_survives_the_loss_of_its_files_until_they_are_restored(
    coordinator: Any, make_farm: Make, tmp_path: Path
) -> None:
    farm = make_farm()
    side = coordinator.writer()
    farm.wait_for_work()
    freeze(side)
    a, b = copy_of(farm, tmp_path / "copy")
    remove_third_party_side_files(b)
    side.ok(E.THAW)
    farm.wait_for_work()

    overwrite(farm)
    damaged = farm.wait_for(lambda line: line["state"] == "damaged")
    assert damaged["problem"]
    farm.wait_for(lambda line: line["errors"] > damaged["errors"])
    answer = side.ask(E.PREPARE_SNAPSHOT)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_NONRETRYABLE)

    side.ok(E.PRE_RESTORE, components=selected(*WHOLE))
    farm.wait_for(lambda line: line["state"] == "restoring")
    put_back(farm, a, b)
    answer = side.ok(E.POST_RESTORE, components=selected(*WHOLE, file_restore_status=FileRestoreStatus.ALL))
    assert answer.components is None
    farm.wait_for(lambda line: line["state"] == "running")
    farm.wait_for_work()
    orders = farm.lines[-1]["orders"]
    farm.wait_for(lambda line: line["orders"] > orders)
    farm.stop()
    status, report = farm.check()
    assert (status, report["problems"]) == (0, [])


def test_removed_files_are_noticed(make_farm: Make) -> None:
    farm = make_farm("--no-writer")
    farm.wait_for_work()
    os.rename(f"{farm.a}/content_a.db", f"{farm.a}/elsewhere.db")
    damaged = farm.wait_for(lambda line: line["state"] == "damaged")
    assert "content_a.db is gone" in damaged["problem"]


def test_a_bad_restore_leaves_the_farm_damaged_and_a_good_one_heals_it(
    coordinator: Any, make_farm: Make, tmp_path: Path
) -> None:
    farm = make_farm("--no-load")
    side = coordinator.writer()
    freeze(side)
    a, b = copy_of(farm, tmp_path / "copy")
    side.ok(E.THAW)
    side.ok(E.PRE_RESTORE, components=selected(*WHOLE))
    put_back(farm, a, b)
    Path(farm.b, "content_b.db").write_bytes(b"rubbish" * 1000)
    answer = side.ask(E.POST_RESTORE, components=selected(*WHOLE))
    assert (answer.veto, answer.code) == (False, Code.VSS_E_WRITERERROR_RECOVERY_FAILED)
    assert answer.components[0].post_restore_failure_message == answer.message
    farm.wait_for(lambda line: line["state"] == "damaged")
    side.ok(E.PRE_RESTORE, components=selected(*WHOLE))
    put_back(farm, a, b)
    side.ok(E.POST_RESTORE, components=selected(*WHOLE))
    farm.wait_for(lambda line: line["state"] == "running")


def test_one_content_database_can_be_restored_alone(coordinator: Any, make_farm: Make, tmp_path: Path) -> None:
    """The other one has moved on; the configuration records the difference instead of reporting it for ever."""
    farm = make_farm()
    side = coordinator.writer()
    farm.wait_for_work()
    content = Component(ComponentType.DATABASE, "Farm\\Content", "content_a")
    freeze(side, [content])
    saved = tmp_path / "content_a.db"
    shutil.copy(f"{farm.a}/content_a.db", saved)
    side.ok(E.THAW)
    farm.wait_for_work()
    side.ok(E.PRE_RESTORE, components=selected(content))
    shutil.copyfile(saved, f"{farm.a}/content_a.db")
    side.ok(E.POST_RESTORE, components=selected(content))
    farm.wait_for_work()
    farm.stop()
    status, report = farm.check()
    assert (status, report["problems"]) == (0, [])
    connection = sqlite3.connect(f"{farm.a}/config.db")
    rows = connection.execute("SELECT reason, amount FROM adjustments").fetchall()
    connection.close()
    assert sum(amount for _reason, amount in rows) == report["expected_money"] - 100_000
    assert all("content_a" in reason for reason, _amount in rows)


def test_a_farm_damaged_at_its_start_waits_to_be_restored(coordinator: Any, make_farm: Make, tmp_path: Path) -> None:
    farm = make_farm("--no-load")
    side = coordinator.writer()
    freeze(side)
    a, b = copy_of(farm, tmp_path / "copy")
    side.ok(E.THAW)
    farm.stop()
    overwrite(farm)
    farm.start()
    side = coordinator.writer()
    farm.wait_for(lambda line: line["state"] == "damaged")
    assert len(side.ok(E.IDENTIFY).metadata.components) == 6
    side.ok(E.PRE_RESTORE, components=selected(*WHOLE))
    put_back(farm, a, b)
    side.ok(E.POST_RESTORE, components=selected(*WHOLE))
    farm.wait_for_work()


def test_mistakes_on_the_command_line_are_one_sentence(make_farm: Make, processes: Any, tmp_path: Path) -> None:
    farm = make_farm("--no-load", "--no-writer")
    farm.wait_for(lambda line: line["state"] == "running")
    nowhere = str(tmp_path / "nowhere")
    for arguments, complaint in (
        (("init", farm.a, farm.b), "holds a farm already"),
        (("run", farm.a, farm.b), "is running already"),
        (("run", nowhere, nowhere), "there is no farm"),
        (("check", farm.a, farm.b), "is running; stop it first"),
        (("check", nowhere, nowhere), "there is no farm"),
        (("status", nowhere, nowhere), "cannot be read"),
    ):
        result = processes.run("-m", "shadowset.writers.farm.main", *arguments)
        assert result.returncode == 1
        assert complaint in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("seconds", ["1"])
def test_a_farm_ends_after_its_time(make_farm: Make, seconds: str) -> None:
    farm = make_farm("--no-writer", "--seconds", seconds)
    assert farm.process.wait(20) == 0
    assert farm.lines[-1]["state"] == "stopped"
    assert farm.lines[-1]["errors"] == 0
    assert farm.check()[0] == 0
