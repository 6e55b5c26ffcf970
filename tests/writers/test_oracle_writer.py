"""The Oracle writer against a simulator of the product's dialogue."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracle_simulator
import pytest
from oracle_simulator import state_of

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, Level, WriterEvent
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.oracle.settings import Settings
from shadowset.writers.server_settings import read_settings

E = WriterEvent


class Oracle:
    def __init__(self, path: Path) -> None:
        self.top, self.dsn = path / "db", str(path / "state")

    def state(self) -> dict[str, Any]:
        with state_of(self.dsn) as state:
            return state

    def change(self, **values: Any) -> None:
        with state_of(self.dsn) as state:
            state.update(values)


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    made = Oracle(tmp_path)
    oracle_simulator.create(made.dsn, made.top)
    return made


@pytest.fixture
def start(processes: Any, coordinator: Any, tmp_path: Path, oracle: Oracle) -> Callable[..., Any]:
    place = str(Path(oracle_simulator.__file__).parent)

    def begin(more: str = "") -> Any:
        config = tmp_path / "oracle.toml"
        config.write_text(
            f'[[database]]\ndsn = "{oracle.dsn}"\ncopies = "{oracle.top}/copies"\ndriver = "oracle_simulator"\n{more}\n'
        )
        process = processes.start("-m", "shadowset.writers.oracle.main", "--config", str(config), PYTHONPATH=place)
        side = coordinator.writer()
        side.process = process
        side.ok(E.IDENTIFY)
        return side

    return begin


def chosen(**fields: Any) -> list[Component]:
    return [Component(ComponentType.DATABASE, "", "SHOP", **fields)]


def test_tablespaces_are_in_backup_mode_over_the_cut(start: Callable[..., Any], oracle: Oracle) -> None:
    side = start()
    document = side.ok(E.IDENTIFY).metadata
    assert (side.hello.level, "not tested on the product" in document.components[0].caption) == (Level.BACK_END, True)
    assert [component.full_path for component in document.components] == [
        "SHOP", "SHOP\\tablespaces\\SYSTEM", "SHOP\\tablespaces\\USERS", "SHOP\\archived logs",
    ]  # fmt: skip
    files = {f"{each.path}/{each.filespec}" for component in document.components for each in component.file_sets}
    names = (
        "control01.ctl",
        "spfile.ora",
        "system01.dbf",
        "users01.dbf",
        "users02.dbf",
        "arch/*",
        "copies/control.bkp",
    )
    assert files == {f"{oracle.top}/{name}" for name in names}  # and never the log that is being written
    side.ok(E.PREPARE_BACKUP, components=chosen())
    assert oracle.state()["backup"] == []
    side.ok(E.PREPARE_SNAPSHOT)
    assert len(oracle.state()["backup"]) == 3
    side.ok(E.FREEZE)
    assert len(oracle.state()["backup"]) == 3
    side.ok(E.THAW)
    assert oracle.state()["backup"] == []
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen()).components
    facts = json.loads(component.backup_metadata)
    assert (facts["method"], facts["logs"], facts["note"]) == ("backup mode", [7, 7], "not tested on the product")
    assert facts["archived"] == [f"{oracle.top}/arch/1_7.arc"]
    assert os.path.exists(facts["archived"][0])
    control = json.loads((oracle.top / "copies/control.bkp").read_text())
    assert control["archived"].keys() == {"7"}  # copied after the log was archived


@pytest.mark.parametrize("how", ["killed", "abort", "coordinator lost"])
def test_backup_mode_ends_whoever_is_lost(start: Callable[..., Any], oracle: Oracle, how: str) -> None:
    side = start()
    side.ok(E.PREPARE_BACKUP, components=chosen())
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE)
    if how == "killed":
        os.kill(side.process.pid, signal.SIGKILL)
    elif how == "abort":
        side.ok(E.ABORT)
    else:
        side.drop()
    end = time.monotonic() + 30
    while oracle.state()["backup"]:
        assert time.monotonic() < end, "the database stays in backup mode"
        time.sleep(0.05)


def test_a_backup_mode_that_did_not_last_fails_the_set(start: Callable[..., Any], oracle: Oracle) -> None:
    side = start()
    side.ok(E.PREPARE_BACKUP, components=chosen())
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE)
    oracle.change(backup=[])
    answer = side.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE
    assert "3 of its data files are not in backup mode" in answer.message


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"log_mode": "NOARCHIVELOG"}, "keeps no archived logs"),
        ({"backup": ["x"]}, "in backup mode already"),
    ],
)
def test_what_cannot_be_copied_is_refused(
    start: Callable[..., Any], oracle: Oracle, values: dict[str, Any], problem: str
) -> None:
    side = start()
    side.ok(E.PREPARE_BACKUP, components=chosen())
    oracle.change(**values)
    answer = side.ask(E.PREPARE_SNAPSHOT)
    assert answer.veto
    assert problem in answer.message
    side.ok(E.ABORT)
    assert oracle.state()["backup"] == values.get("backup", [])  # what others began is theirs


def test_a_closed_database_needs_no_backup_mode(start: Callable[..., Any], oracle: Oracle) -> None:
    oracle.change(log_mode="NOARCHIVELOG", open_mode="READ ONLY")
    side = start()
    side.ok(E.PREPARE_BACKUP, components=chosen())
    for event in (E.PREPARE_SNAPSHOT, E.FREEZE, E.THAW):
        side.ok(event)
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen()).components
    assert json.loads(component.backup_metadata)["method"] == "closed"
    assert "ALTER DATABASE BEGIN BACKUP" not in oracle.state()["said"]
    side.ok(E.PREPARE_BACKUP, components=chosen())
    side.ok(E.PREPARE_SNAPSHOT)
    oracle.change(open_mode="READ WRITE")
    assert "opened amid the creation" in side.ask(E.FREEZE).message


def test_files_outside_the_set_are_named(start: Callable[..., Any], oracle: Oracle) -> None:
    side = start()
    volumes = [EventVolume(name="v", mount_points=["/elsewhere"])]
    side.ok(E.PREPARE_BACKUP, components=chosen(), volumes=volumes)
    answer = side.ask(E.PREPARE_SNAPSHOT, volumes=volumes)
    assert answer.code == Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT
    assert "users02.dbf" in answer.message
    side.ok(E.ABORT)
    side.ok(E.PREPARE_BACKUP, select_components=False, volumes=volumes)
    side.ok(E.PREPARE_SNAPSHOT, select_components=False, volumes=volumes)
    assert oracle.state()["backup"] == []


def test_a_restore_needs_the_database_down(start: Callable[..., Any], oracle: Oracle, tmp_path: Path) -> None:
    wanted = chosen(selected_for_restore=True, file_restore_status=FileRestoreStatus.ALL)
    side = start()
    answer = side.ask(E.PRE_RESTORE, components=wanted)
    assert answer.veto
    assert "shut it down" in answer.message
    side.process.terminate()
    side.process.wait(30)
    stop = f'stop_command = ["mv", "{oracle.dsn}", "{oracle.dsn}.down"]'
    side = start(f'{stop}\nrecover_command = ["mv", "{oracle.dsn}.down", "{oracle.dsn}"]')
    side.ok(E.PRE_RESTORE, components=wanted)
    assert not os.path.exists(oracle.dsn)
    side.ok(E.POST_RESTORE, components=wanted)
    assert os.path.exists(oracle.dsn)
    os.unlink(oracle.dsn)
    answer = side.ask(E.POST_RESTORE, components=wanted)
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED


def test_a_driver_or_log_in_that_is_not_there(start: Callable[..., Any], oracle: Oracle, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong\n")
    side = start(f'password_file = "{tmp_path}/password"')
    assert side.ok(E.IDENTIFY).metadata.components == ()
    side.ok(E.PREPARE_BACKUP, select_components=False)
    answer = side.ask(E.PREPARE_SNAPSHOT, select_components=False)
    assert "ORA-01017" in answer.message
    for text, problem in (
        ("[[database]]\ncopies = '/c'\ndsn = ''\n", "has no dsn"),
        ("[[database]]\ncopies = 'c'\ndsn = 'x'\n", "absolute path"),
        ("[[database]]\ncopies = '/c'\ndsn = 'x'\npassword_file = 'p'\n", "absolute path"),
    ):
        (tmp_path / "x.toml").write_text(text)
        with pytest.raises(VssError, match=problem):
            read_settings(str(tmp_path / "x.toml"), Settings)
