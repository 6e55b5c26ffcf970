"""Existing freeze and thaw scripts, unchanged, as a writer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, WriterEvent
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.hooks import scripts as hook_scripts
from shadowset.writers.hooks import settings
from shadowset.writers.hooks.runner import freeze, thaw
from shadowset.writers.hooks.scripts import steps_of, thaw_order
from shadowset.writers.hooks.settings import Hook, Settings
from shadowset.writers.hooks.writer import LOGICAL_PATH
from shadowset.writers.server_settings import read_settings

E = WriterEvent


class Place:
    """A directory of scripts, each of which notes its calls in one journal."""

    def __init__(self, path: Path) -> None:
        self.path = path / "scripts"
        self.path.mkdir()
        self.journal = path / "journal"

    def add(self, name: str, body: str = "", mode: int = 0o755) -> str:
        script = self.path / name
        script.write_text(f'#!/bin/sh\necho "{name} $@" >>{self.journal}\n{body}\n')
        script.chmod(mode)
        return str(script)

    def calls(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def wait_for(self, call: str) -> None:
        end = time.monotonic() + 30
        while call not in self.calls():
            assert time.monotonic() < end, f"no {call} among {self.calls()}"
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def start(processes: Any, coordinator: Any, tmp_path: Path, place: Place) -> Callable[..., Any]:
    def begin(kind: str, more: str = "", path: str = "") -> Any:
        config = tmp_path / "hooks.toml"
        config.write_text(f'[[hook]]\nkind = "{kind}"\nname = "app"\npath = "{path or place.path}"\n{more}\n')
        process = processes.start("-m", "shadowset.writers.hooks.main", "--config", str(config))
        side = coordinator.writer()
        side.process = process
        return side

    return begin


def chosen() -> list[Component]:
    return [Component(ComponentType.FILEGROUP, LOGICAL_PATH, "app")]


def prepare(side: Any, **fields: Any) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(), **fields)
    side.ok(E.PREPARE_SNAPSHOT, **fields)


@pytest.mark.vss(33)
def test_scripts_of_the_guest_agent_run_unchanged(start: Callable[..., Any], place: Place) -> None:
    for name in ("20-second", "10-first", "old.bak", "new.dpkg-new", "editor~"):
        place.add(name)
    place.add("README", mode=0o644)
    side = start("qemu")
    prepare(side)
    assert place.calls() == []
    side.ok(E.FREEZE)
    assert place.calls() == ["10-first freeze", "20-second freeze"]
    side.ok(E.THAW)
    assert place.calls()[2:] == ["10-first thaw", "20-second thaw"]
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen()).components
    assert component.backup_metadata == "frozen"


@pytest.mark.vss(33)
def test_scripts_of_vmware_tools_are_taken_back_in_the_opposite_order(start: Callable[..., Any], place: Place) -> None:
    place.add("1-one")
    place.add("2-two", 'if [ "$1" = freeze ]; then echo no disk here; exit 3; fi')
    place.add("3-three")
    side = start("vmware")
    prepare(side)
    answer = side.ask(E.FREEZE)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_RETRYABLE, True)
    assert "2-two freeze ended with status 3 (no disk here)" in answer.message
    assert place.calls() == ["1-one freeze", "2-two freeze", "2-two freezeFail", "1-one freezeFail"]
    side.ok(E.ABORT)
    place.add("2-two")
    prepare(side)
    side.ok(E.FREEZE)
    side.ok(E.THAW)
    assert place.calls()[-3:] == ["3-three thaw", "2-two thaw", "1-one thaw"]


@pytest.mark.vss(33)
@pytest.mark.parametrize("directory", [True, False], ids=["with-directory", "alone"])
def test_the_older_scripts_of_vmware_tools_are_first_and_last(
    place: Place, monkeypatch: pytest.MonkeyPatch, directory: bool
) -> None:
    before, after = (Path(place.add(name)) for name in ("pre-freeze-script", "post-thaw-script"))
    scripts = place.path / "backupScripts.d"
    if directory:
        scripts.mkdir()
        for name in ("1-one", "2-two"):
            Path(place.add(name)).rename(scripts / name)
    monkeypatch.setitem(settings.USUAL_PLACES, "vmware", str(scripts))
    for module in (settings, hook_scripts):
        monkeypatch.setattr(module, "PRE_FREEZE", str(before))
        monkeypatch.setattr(module, "POST_THAW", str(after))
    (hook,) = [each for each in settings.discover() if each.kind == "vmware"]
    inner = ["1-one", "2-two"] if directory else []
    freeze(hook, steps_of(hook), 30)
    assert place.calls() == ["pre-freeze-script freeze", *(f"{name} freeze" for name in inner)]
    place.journal.unlink()
    assert thaw(hook, steps_of(hook)) == []
    assert place.calls() == [*(f"{name} thaw" for name in inner[::-1]), "post-thaw-script thaw"]
    place.journal.unlink()
    place.add("pre-freeze-script", "exit 3")
    with pytest.raises(VssError, match="ended with status 3"):
        freeze(hook, steps_of(hook), 30)
    assert place.calls() == ["pre-freeze-script freeze", "post-thaw-script freezeFail"]
    before.unlink()
    after.unlink()
    assert directory or not [each for each in settings.discover() if each.kind == "vmware"]


@pytest.mark.vss(33)
def test_scripts_of_azure_are_tried_again(start: Callable[..., Any], place: Place, tmp_path: Path) -> None:
    before = place.add("pre.sh", f"[ $(grep -c pre.sh {place.journal}) -ge 3 ]")
    after = place.add("post.sh")
    plugin = place.path / "plugin.json"
    plugin.write_text(
        f'{{"pluginName": "ScriptRunner", "preScriptLocation": "{before}", "postScriptLocation": "{after}",'
        ' "preScriptParams": ["a b"], "postScriptParams": [], "preScriptNoOfRetries": 2, "postScriptNoOfRetries": 0,'
        ' "timeoutInSeconds": 30, "continueBackupOnFailure": true, "fsFreezeEnabled": true}'
    )
    plugin.chmod(0o600)
    side = start("azure", path=str(plugin))
    prepare(side)
    side.ok(E.FREEZE)
    side.ok(E.THAW)
    assert place.calls() == ["pre.sh a b"] * 3 + ["post.sh "]


def test_scripts_of_googles_guest_agent(start: Callable[..., Any], place: Place) -> None:
    place.add("pre.sh")
    place.add("post.sh")
    side = start("google")
    prepare(side)
    side.ok(E.FREEZE)
    side.ok(E.THAW)
    assert place.calls() == ["pre.sh ", "post.sh "]
    (place.path / "pre.sh").unlink()
    assert steps_of(Hook(kind="google", path=str(place.path)))[0].freeze == []
    (place.path / "post.sh").unlink()
    with pytest.raises(VssError, match=r"no pre\.sh and no post\.sh"):
        steps_of(Hook(kind="google", path=str(place.path)))


def test_plug_ins_of_snapper(start: Callable[..., Any], place: Place) -> None:
    for name in ("20-second", "10-first", "grub"):
        place.add(name)
    side = start("snapper", 'files = ["/proc"]')
    prepare(side)
    side.ok(E.FREEZE)
    assert place.calls() == [f"{name} create-snapshot-pre /proc proc 0" for name in ("10-first", "20-second")]
    side.ok(E.THAW)
    assert place.calls()[2:] == [f"{name} create-snapshot-post /proc proc 0" for name in ("10-first", "20-second")]


def test_a_failure_that_is_allowed_is_recorded(start: Callable[..., Any], place: Place) -> None:
    place.add("only", '[ "$1" != freeze ]')
    side = start("qemu", "required = false")
    prepare(side)
    side.ok(E.FREEZE)
    side.ok(E.THAW)
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen()).components
    assert component.backup_metadata.startswith("crash-consistent: ")
    assert component.failure.code == 0
    assert component.failure.message.startswith("only crash-consistent: the hook ")
    assert place.calls() == ["only freeze", "only thaw"]  # taken back at once, and not again


def test_a_hanging_script_is_killed_in_time(start: Callable[..., Any], place: Place) -> None:
    place.add("hangs", 'if [ "$1" = freeze ]; then sleep 1000 & wait; fi')
    side = start("qemu", "seconds = 0.5")
    prepare(side)
    answer = side.ask(E.FREEZE)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_TIMEOUT, True)
    assert place.calls() == ["hangs freeze", "hangs thaw"]


def test_an_abort_amid_a_slow_freeze_has_the_last_word(start: Callable[..., Any], place: Place) -> None:
    place.add("slow", f'[ "$1" = freeze ] && sleep 4 && echo late >>{place.journal}; exit 0')
    side = start("qemu")
    prepare(side)
    side.post(E.FREEZE)
    place.wait_for("slow freeze")
    side.drop()
    place.wait_for("late")
    end = time.monotonic() + 30
    while place.calls()[-1] != "slow thaw":
        assert time.monotonic() < end, place.calls()
        time.sleep(0.05)


def test_a_killed_writer_is_thawed_after(start: Callable[..., Any], place: Place) -> None:
    place.add("one")
    side = start("qemu")
    prepare(side)
    side.ok(E.FREEZE)
    os.kill(side.process.pid, signal.SIGKILL)
    place.wait_for("one thaw")


def test_a_writer_killed_amid_a_freeze_leaves_nothing_frozen(start: Callable[..., Any], place: Place) -> None:
    place.add("slow", f'if [ "$1" = freeze ]; then sleep 3; echo late >>{place.journal}; fi')
    side = start("qemu")
    prepare(side)
    side.post(E.FREEZE)
    place.wait_for("slow freeze")
    os.kill(side.process.pid, signal.SIGKILL)
    place.wait_for("slow thaw")
    time.sleep(3.2)
    assert place.calls() == ["slow freeze", "slow thaw"]  # the script went with its writer


def test_a_lost_coordinator_is_a_reason_to_thaw(start: Callable[..., Any], place: Place) -> None:
    place.add("one")
    side = start("qemu")
    prepare(side)
    side.ok(E.FREEZE)
    side.drop()
    place.wait_for("one thaw")


def test_a_thaw_that_fails_is_told_and_the_others_run(start: Callable[..., Any], place: Place) -> None:
    place.add("1-one", '[ "$1" != thaw ]')
    place.add("2-two")
    side = start("qemu")
    prepare(side)
    side.ok(E.FREEZE)
    answer = side.ask(E.THAW)
    assert "1-one thaw ended with status 1" in answer.message
    assert place.calls()[2:] == ["1-one thaw", "2-two thaw"]


def test_hooks_of_files_elsewhere_stay_still(start: Callable[..., Any], place: Place, tmp_path: Path) -> None:
    place.add("one")
    side = start("qemu", f'files = ["{tmp_path}"]')
    (component,) = side.ok(E.IDENTIFY).metadata.components
    assert [files.path for files in component.files] == [str(tmp_path)]
    prepare(side, volumes=[EventVolume(name="v", mount_points=["/elsewhere"])])
    side.ok(E.FREEZE)
    side.ok(E.THAW)
    assert place.calls() == []


def test_scripts_that_others_can_change_are_refused(place: Place) -> None:
    place.add("open", mode=0o777)
    with pytest.raises(VssError, match="can be changed by others") as caught:
        steps_of(Hook(kind="qemu", path=str(place.path)))
    assert caught.value.code == Code.E_ACCESSDENIED
    with pytest.raises(VssError, match="cannot be read"):
        steps_of(Hook(kind="qemu", path=str(place.path / "none")))
    with pytest.raises(VssError, match="cannot be used"):
        steps_of(Hook(kind="azure", path=str(place.path / "open")))
    steps = steps_of(Hook(kind="command", freeze=["/bin/true"], thaw=["/bin/true", "x"]))
    assert thaw_order(Hook(kind="command"), steps) == steps


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[hook]]\nkind = "command"\nfreeze = ["/x"]\n', "both freeze and thaw"),
        ('[[hook]]\nkind = "qemu"\nfreeze = ["/x"]\n', "leave freeze and thaw away"),
        ('[[hook]]\nkind = "qemu"\npath = "x"\n', "absolute path"),
        ('[[hook]]\nkind = "qemu"\nname = "a/b"\n', "without /"),
        ('[[hook]]\nkind = "qemu"\nseconds = 0.0\n', "seconds above 0"),
        ('[[hook]]\nkind = "snapper"\n', "needs one directory"),
        ('[[hook]]\nkind = "hyperv"\n', "Invalid enum value"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(VssError, match=problem):
        read_settings(str(path), Settings)
