"""Writers that fail, hang and vanish, through the whole installation; the test writer's journal is the witness."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup_components import BackupComponents
from shadowset.vss.enums import BackupType

VANISHING = ("PrepareForBackup", "PrepareForSnapshot", "Freeze", "Thaw", "PostSnapshot", "BackupComplete")


class Stage:
    """Test writers on the volume ``one``, each with a directory and a journal of its own."""

    def __init__(self, chain: Any, wait_until: Any) -> None:
        self.chain = chain
        self._wait_until = wait_until
        self._backups = 0

    def start(self, name: str, *actions: str, components: tuple[str, ...] = ("files",), more: str = "") -> Any:
        """A running writer; each action is the body of a TOML table ``[[action]]``."""
        place = f"{self.chain.places['one']}/{name}"
        os.makedirs(place, exist_ok=True)
        text = f'writer_id = "{uuid.uuid5(uuid.NAMESPACE_OID, name)}"\nwriter_name = "{name}"\n{more}\n'
        text += f'journal = "{self.journal(name)}"\n[restore_method]\nmethod = "RESTORE_IF_CAN_REPLACE"\n'
        for component in components:
            Path(f"{place}/{component}.txt").write_text(component)
            files = f'[{{ path = "{place}", filespec = "{component}.*" }}]'
            text += f'[[component]]\ncomponent_type = "filegroup"\ncomponent_name = "{component}"\n'
            text += f"component_file = {files}\n"
        text += "".join(f"[[action]]\n{action}\n" for action in actions)
        config = f"{self.chain.directory}/{name}.toml"
        Path(config).write_text(text)
        process = self.chain.module("shadowset.writers.testwriter.main", config)
        self._wait_until(f"the writer {name}", lambda: self.status(name, process.pid))
        return process

    def status(self, name: str, pid: int) -> Any:
        found = [each for each in self.chain.cli("writers") if (each["name"], each["pid"]) == (name, pid)]
        return found[0] if found and found[0]["connected"] else None

    def journal(self, name: str) -> str:
        return f"{self.chain.directory}/{name}.ndjson"

    def received(self, name: str) -> list[dict[str, Any]]:
        """What a writer was told, identify apart."""
        lines = [json.loads(line) for line in Path(self.journal(name)).read_text().splitlines()]
        return [line for line in lines if line["step"] == "received" and line["event"] != "identify"]

    def events(self, name: str) -> list[str]:
        return [line["event"] for line in self.received(name)]

    def backup(self, *writers: str) -> Any:
        """The command's result and, when there is one, its report."""
        self._backups += 1
        target = f"{self.chain.directory}/backup{self._backups}"
        chosen = [word for name in writers for word in ("--writer", name)]
        done = self.chain.raw("backup", target, *chosen, "--json")
        assert "Traceback" not in done.stderr
        return done, json.loads(done.stdout) if done.stdout.strip() else None


@pytest.fixture
def stage(volumes: Any, wait_until: Any) -> Stage:
    return Stage(volumes, wait_until)


@pytest.mark.vss(3, 11, 13, 26)
def test_a_veto_in_freeze_voids_one_set_and_no_other(stage: Stage, wait_until: Any) -> None:
    stage.start("calm")
    stage.start("idle")
    stage.start("mute", 'writer_event = "Identify"\ncode = "VSS_E_WRITERERROR_NONRETRYABLE"')
    freeze = 'writer_event = "Freeze"\ntimes = 1\ncode = "VSS_E_WRITERERROR_RETRYABLE"\nmessage = "not now"'
    angry = stage.start("angry", freeze, more='level = "BACK_END"')
    with BackupComponents(stage.chain.paths) as calls:
        calls.initialize_for_backup()
        calls.set_backup_state(True, False, BackupType.COPY)
        described = {metadata.name for metadata in calls.gather_writer_metadata().result()}
    assert {"calm", "idle", "angry"} <= described and "mute" not in described

    done, _report = stage.backup("calm", "angry")
    assert done.returncode == 1 and "not now" in done.stderr
    wait_until("the abort", lambda: "abort" in stage.events("calm"))
    assert stage.events("calm")[:4] == ["prepare-backup", "prepare-snapshot", "freeze", "abort"]
    stage.chain.check_writable()

    done, report = stage.backup("calm", "angry")
    assert done.returncode == 0 and report["succeeded"], done.stderr
    assert angry.poll() is None
    assert stage.status("angry", angry.pid)["failure"]["code"] == "S_OK"
    assert set(stage.events("idle")) == {"prepare-backup"}, "nothing of it was chosen"


@pytest.mark.vss(12, 16, 28)
def test_what_voids_no_set_is_told_with_its_component(stage: Stage, wait_until: Any) -> None:
    stage.start("calm")
    stage.start("before", 'writer_event = "PrepareForSnapshot"\ncode = "VSS_E_WRITERERROR_OUTOFRESOURCES"')
    stage.start("after", 'writer_event = "PostSnapshot"\ncode = "VSS_E_WRITERERROR_NONRETRYABLE"\nmessage = "too late"')
    failing = 'component_name = "c3", code = "VSS_E_WRITERERROR_TIMEOUT", application_code = 17, message = "slow c3"'
    names = tuple(f"c{number}" for number in range(1, 6))
    stage.start("partial", f'writer_event = "PostSnapshot"\nfail_component = [{{ {failing} }}]', components=names)

    done, report = stage.backup("calm", "before", "after", "partial")
    assert done.returncode == 1 and report is not None, done.stderr
    assert report["set_id"]
    results = {(each["writer"], each["name"]): each for each in report["components"]}
    failed = {key for key, each in results.items() if not each["succeeded"]}
    assert failed == {("before", "files"), ("after", "files"), ("partial", "c3")}
    assert "slow c3" in results["partial", "c3"]["reason"] and "too late" in results["after", "files"]["reason"]
    for name in ("calm", "before", "after", "partial"):
        assert "abort" not in stage.events(name)

    stage.start("slow", 'writer_event = "Freeze"\nsleep_ms = 5000', more="freeze_timeout_ms = 1000")
    done, report = stage.backup("slow")
    assert done.returncode == 1 and report is None and "slow" in done.stderr
    wait_until("the writer's own abort", lambda: "abort" in stage.events("slow"))
    freeze, abort = (next(line for line in stage.received("slow") if line["event"] == e) for e in ("freeze", "abort"))
    assert "window of 1000 ms expired" in abort["reason"]
    assert abort["monotonic_ns"] - freeze["monotonic_ns"] >= 1_000_000_000
    stage.chain.check_writable()


@pytest.mark.vss(22)
@pytest.mark.timeout(300)
def test_a_writer_that_dies_in_an_event_ends_nobody_else(stage: Stage) -> None:
    stage.start("calm")
    for event in VANISHING:
        dying = stage.start("dying", f'writer_event = "{event}"\nending = "kill"')
        done, report = stage.backup("calm", "dying")
        assert dying.wait(30) == -9, event
        assert done.returncode == 1, (event, done.stderr)
        told = done.stderr + json.dumps(report)
        assert "dying" in told and ("gone" in told or "NOT_RESPONDING" in told), (event, told)
        stage.chain.check_writable()
    done, report = stage.backup("calm")
    assert done.returncode == 0 and report["succeeded"], done.stderr
