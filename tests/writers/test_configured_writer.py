"""The test writer's configuration, and what it does with it against a coordinator that a test plays."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import BackupSchema, ComponentType, FileRestoreStatus, RestoreMethodType, WriterEvent
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.testwriter.main import load, main
from shadowset.writers.testwriter.settings import RETRYABLE, Settings
from shadowset.writers.testwriter.writer import ConfiguredWriter

E = WriterEvent
PAGE = Path(__file__).parents[2] / "docs" / "test-writer.md"
EXAMPLES = re.findall(r"```(xml|toml)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
METHOD = '[restore_method]\nmethod = "RESTORE_IF_CAN_REPLACE"\n'
XML = '<TestWriter><RestoreMethod method="CUSTOM"/>{}</TestWriter>'


def configuration(directory: Path, text: str, kind: str = "toml") -> Settings:
    path = directory / f"config.{kind}"
    path.write_text(text)
    return load(str(path))


def files_component(directory: Path, more: str = "") -> str:
    return (
        f'{METHOD}\n[[component]]\ncomponent_type = "filegroup"\ncomponent_name = "files"\n{more}\n'
        f'component_file = [{{ path = "{directory}", filespec = "*" }}]\n'
    )


# ---- the configuration


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_page(tmp_path: Path, number: int) -> None:
    kind, text = EXAMPLES[number]
    settings = configuration(tmp_path, text, kind)
    assert settings.actions or settings.components


def test_the_published_form_means_what_is_published(tmp_path: Path) -> None:
    settings = configuration(tmp_path, EXAMPLES[0][1], "xml")
    assert settings.writer_id == "5affb034-969f-4919-8875-88f830d0ef89"
    assert settings.schema == BackupSchema.WRITER_SUPPORTS_NEW_TARGET
    assert settings.restore_method.method is RestoreMethodType.RESTORE_IF_CAN_REPLACE
    assert settings.mappings[0].alternate_path == "/srv/other"
    (component,) = settings.components
    assert component.info.files[0].mask == 0x0F0F and component.info.selectable
    assert component.partial_files[0].ranges == "0:5,100:20"
    assert component.differenced_files[0].last_modified_ns > 1_700_000_000_000_000_000
    (failure,) = settings.actions
    assert (failure.event, failure.times, failure.codes) == (E.FREEZE, 2, tuple(map(int, RETRYABLE)))


def test_the_misspelt_event_is_taken_too(tmp_path: Path) -> None:
    for word in ("PrepareForSnapsot", "PrepareForSnapshot"):
        settings = configuration(tmp_path, XML.format(f'<FailEvent writerEvent="{word}"/>'), "xml")
        assert settings.actions[0].event is E.PREPARE_SNAPSHOT


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("xml", "<TestWriter/>", ("first element", "RestoreMethod")),
        ("xml", "<Other/>", ("Other", "TestWriter")),
        ("xml", '<TestWriter><RestoreMethod method="X"/></TestWriter>', ("RestoreMethod[1]", "'X'", "CUSTOM")),
        ("xml", XML.format('<FailEvent writerEvent="Sleep"/>'), ("FailEvent[1]", "writerEvent", "Freeze")),
        ("xml", XML.format('<FailEvent writerEvent="Freeze" retry="yes"/>'), ("no retry here", "retryable")),
        ("xml", XML.format("<Files/>"), ("no element Files", "ComponentFile")),
        ("xml", XML.format('<ExcludeFile path="c:\\x" filespec="*"/>'), ("ExcludeFile[1]", "absolute path")),
        ("xml", "<TestWriter", ("config.xml",)),
        ("toml", "x = @", ("config.toml", "line 1")),
        ("toml", "", ("exactly one restore method",)),
        ("toml", METHOD + '[[action]]\nwriter_event = "Freeze"\nsleep_ms = "x"', ("action[1]", "whole number from 1")),
        ("toml", METHOD + '[[action]]\nwriter_event = "Freeze"\nveto = false', ("need a code",)),
        ("toml", METHOD + '[[action]]\nwriter_event = "Freeze"\nending = "die"', ("ending", "hang", "kill")),
        ("toml", 'level = "TOP"\n' + METHOD, ("level", "FRONT_END")),
        ("toml", 'writer_id = "x"\n' + METHOD, ("GUID",)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_sentence(
    tmp_path: Path, kind: str, text: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"config.{kind}"
    path.write_text(text)
    assert main(["--check", str(path)]) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and str(path) in told
    assert all(word in told for word in words), told


def test_a_failing_component_has_to_be_there(tmp_path: Path) -> None:
    action = '[[action]]\nwriter_event = "PostSnapshot"\nfail_component = [{ component_name = "other" }]\n'
    with pytest.raises(VssError, match="there are files"):
        configuration(tmp_path, files_component(tmp_path) + action)


# ---- the behaviour

Start = Callable[[str], Any]


@pytest.fixture
def start(coordinator: Any, tmp_path: Path) -> Iterator[Start]:
    writers = []

    def make(text: str) -> Any:
        writer = ConfiguredWriter(configuration(tmp_path, text), coordinator.path)
        writers.append(writer)
        writer.start()
        return coordinator.writer()

    yield make
    for writer in writers:
        writer.stop()


def component(**values: Any) -> Component:
    return Component(ComponentType.FILEGROUP, "", "files", **values)


def test_failures_are_counted(start: Start) -> None:
    side = start(METHOD + '[[fail_event]]\nwriter_event = "PrepareForBackup"\nretryable = true\nnum_failures = 2\n')
    for _ in range(2):
        reply = side.ask(E.PREPARE_BACKUP)
        assert reply.veto and reply.code in RETRYABLE
    side.ok(E.PREPARE_BACKUP)


def test_a_component_fails_alone(start: Start, tmp_path: Path) -> None:
    failing = (
        '{ component_name = "files", code = "VSS_E_WRITERERROR_TIMEOUT", application_code = 17, message = "slow" }'
    )
    action = f'[[action]]\nwriter_event = "PostSnapshot"\nfail_component = [{failing}]\n'
    side = start(files_component(tmp_path, 'backup_stamp = "s1"') + action)
    reply = side.ask(E.POST_SNAPSHOT, components=[component()])
    assert (reply.code, reply.veto) == (Code.VSS_E_WRITERERROR_PARTIAL_FAILURE, False)
    (told,) = reply.components
    assert (told.failure.code, told.failure.application_code) == (Code.VSS_E_WRITERERROR_TIMEOUT, 17)
    assert (told.post_snapshot_failure_message, told.backup_stamp) == ("slow", "s1")


def spoilt(answer: str) -> str:
    return f'{METHOD}[[action]]\nwriter_event = "BackupComplete"\nanswer = "{answer}"\nlate_ms = 300\n'


def test_answers_are_spoilt(start: Start) -> None:
    side = start(spoilt("twice"))
    seq = side.post(E.BACKUP_COMPLETE)
    assert [side.reply(seq).seq, side.reply(seq).seq] == [seq, seq]
    side = start(spoilt("wrong"))
    seq = side.post(E.BACKUP_COMPLETE)
    assert side.replies.get(timeout=30).seq != seq
    side = start(spoilt("none"))
    side.post(E.BACKUP_COMPLETE)
    side.ok(E.BACKUP_SHUTDOWN)


def test_a_late_answer_comes_after_the_next(start: Start) -> None:
    side = start(spoilt("late"))
    late, next_one = side.post(E.BACKUP_COMPLETE), side.post(E.BACKUP_SHUTDOWN)
    assert [side.replies.get(timeout=30).seq for _ in range(2)] == [next_one, late]


def test_a_malformed_answer_ends_the_connection(start: Start, coordinator: Any) -> None:
    side = start(spoilt("malformed"))
    side.post(E.BACKUP_COMPLETE)
    # The fake coordinator drops who sends no message of the protocol; the writer comes back.
    assert coordinator.writer().hello.name == "Test Writer"


def test_it_hangs_up_and_comes_back(start: Start, coordinator: Any) -> None:
    side = start(f'{METHOD}[[action]]\nwriter_event = "Thaw"\ntimes = 1\nending = "disconnect"\n')
    side.ok(E.FREEZE)
    side.post(E.THAW)
    assert side.closed.wait(30)
    assert coordinator.writer().hello.name == "Test Writer"


@pytest.mark.parametrize(("ending", "status"), [("exit", 1), ("kill", -9)])
def test_its_process_ends(coordinator: Any, processes: Any, tmp_path: Path, ending: str, status: int) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'{METHOD}[[action]]\nwriter_event = "Freeze"\nending = "{ending}"\n')
    process = processes.start("-m", "shadowset.writers.testwriter.main", str(config))
    coordinator.writer().post(E.FREEZE)
    assert process.wait(30) == status


def test_the_window_ends_while_it_sleeps(start: Start, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    side = start(
        f'freeze_timeout_ms = 300\njournal = "{journal}"\n{METHOD}[[action]]\nwriter_event = "Freeze"\nsleep_ms = 600\n'
    )
    reply = side.ask(E.FREEZE, volumes=[EventVolume("one")])
    assert (reply.veto, reply.code) == (True, Code.VSS_E_WRITERERROR_TIMEOUT)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [(line["step"], line["event"]) for line in lines][-2:] == [("received", "abort"), ("answered", "abort")]
    assert lines[0]["volumes"] == ["one"] and lines[0]["components"] is None
    assert "window" in lines[-2]["reason"]
    assert all(a["monotonic_ns"] <= b["monotonic_ns"] for a, b in itertools.pairwise(lines))


def test_marks_and_waits(start: Start, tmp_path: Path) -> None:
    mark, leave = tmp_path / "mark", tmp_path / "leave"
    side = start(f'{METHOD}[[action]]\nwriter_event = "Freeze"\nmark = "{mark}"\nwait_for = "{leave}"\n')
    seq = side.post(E.FREEZE)
    while not mark.exists():
        assert side.replies.empty()
        time.sleep(0.01)
    leave.touch()
    assert side.reply(seq).code == 0


# ---- its files


def backup(side: Any, mount: Path) -> None:
    side.ok(E.PREPARE_BACKUP, components=[component()])
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.POST_SNAPSHOT, components=[component()], volumes=[EventVolume("v", [str(mount)], "id", "/dev/null")])


def test_files_go_when_they_are_in_a_copy_and_are_missed_after_a_bad_restore(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("first")
    (data / "b").write_text("second")
    side = start("delete_files = true\ncheck_includes = true\ncheck_excludes = true\n" + files_component(data)
                 + f'[[exclude_file]]\npath = "{data}"\nfilespec = "*.no"\n')  # fmt: skip
    (data / "left.no").write_text("not mine")
    backup(side, tmp_path / "elsewhere")
    assert (data / "a").exists(), "nothing is deleted that is in no copy"
    backup(side, tmp_path)
    assert [path.name for path in data.iterdir()] == ["left.no"]

    done = component(selected_for_restore=True, file_restore_status=FileRestoreStatus.ALL)
    (data / "left.no").unlink()
    (data / "a").write_text("first")
    reply = side.ask(E.POST_RESTORE, components=[done])
    assert reply.code == Code.VSS_E_WRITERERROR_NONRETRYABLE and not reply.veto and f"{data}/b" in reply.message
    (data / "b").write_text("second")
    side.ok(E.POST_RESTORE, components=[done])
    (data / "x.no").write_text("")
    assert "excluded" in side.ask(E.POST_RESTORE, components=[done]).message


def test_spit_files_come_back_after_an_abort(start: Start, tmp_path: Path) -> None:
    data, aside = tmp_path / "data", tmp_path / "data" / "spit"
    data.mkdir()
    (data / "a").write_text("first")
    files = f'{{ path = "{data}", filespec = "*", alternate_path = "{aside}" }}'
    text = files_component(data).replace("component_file = [", f"component_file = [{files}]\n#")
    side = start("delete_files = true\n" + text)
    side.ok(E.PREPARE_BACKUP, components=[component()])
    side.ok(E.PREPARE_SNAPSHOT)
    assert not (data / "a").exists() and (aside / "a").read_text() == "first"
    side.ok(E.ABORT)
    assert (data / "a").read_text() == "first"
    backup(side, tmp_path)
    assert not (data / "a").exists() and not (aside / "a").exists()
