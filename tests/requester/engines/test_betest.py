"""betest: its options, its lists of components, and what the test writer hears in each manner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.cli import UsageError
from shadowset.requester.windows.betest import main
from shadowset.requester.windows.betest.components import read_configuration, read_list
from shadowset.requester.windows.betest.options import parse_options
from shadowset.vss.codes import VssError
from shadowset.vss.documents import components_from_xml
from shadowset.vss.enums import BackupType, WriterEvent
from shadowset.vss.selection import Selector

WRITER = "5affb034-969f-4919-8875-88f830d0ef89"


@pytest.mark.vss(130)
def test_options_are_those_of_the_page() -> None:
    options = parse_options(["/b", "-S", "b.xml", "/D", "/backup", "/t", "incremental", "/Pre", "a.xml", "/NBC", "/V"])
    assert (options.backup, options.restore, options.no_complete, options.verbose) == (True, False, True, True)
    assert (options.document, options.directory, options.previous) == ("b.xml", "/backup", "a.xml")
    assert options.backup_type is BackupType.INCREMENTAL
    assert parse_options(["/D", "x"]).copies and parse_options(["/D", "x"]).restores


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/Q"], "no option '/Q'"),
        (["x"], "no option 'x'"),
        (["/B", "/D"], "/D needs a value"),
        (["/B", "/D", "x", "/T", "ALL"], "/T takes FULL"),
        (["/B", "/R"], "exclude each other"),
        (["/BC", "/NBC"], "exclude each other"),
        (["/B", "/D", "x", "/X", "1", "/C", "2"], "give one of them"),
        (["/R", "/D", "x"], "/R needs the document"),
        (["/B"], "/D path"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        parse_options(arguments)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


@pytest.mark.vss(130)
def test_lists_of_components() -> None:
    xml = f'<BETest><Writer writerid="{WRITER}"><Component componentName="b" logicalPath="\\a"/></Writer></BETest>'
    assert read_configuration(xml.encode(), "x") == (Selector(WRITER, "a\\b"),)
    assert read_configuration(f'<BETest><Writer writerid="{WRITER}"/></BETest>'.encode(), "x") == (Selector(WRITER),)
    text = f'"{WRITER}" : "One", "Two";\n"other" : "Three";\n'
    assert read_list(text, "x") == (Selector(WRITER, "One"), Selector(WRITER, "Two"), Selector("other", "Three"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<BETest/>", "names no writer"),
        ("<Other/>", "has to be BETest"),
        ("<BETest><Writer/></BETest>", "needs a writerid"),
        ('<BETest><Writer writerid="1" name="2"/></BETest>', "has no attribute name"),
        ('<BETest><Writer writerid="1"><File/></Writer></BETest>', "File where Component is known"),
        ('<BETest><Writer writerid="1"><Component/></Writer></BETest>', "needs a componentName"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><BETest/>', "not accepted"),
        ("<BETest", "x: "),
    ],
)
def test_configurations_that_are_none(text: str, words: str) -> None:
    with pytest.raises(VssError, match=words):
        read_configuration(text.encode(), "x")


@pytest.mark.parametrize("text", ['"1":"a";', '"1" : "a"', "1 : a;", '"1" : "a" "b";'])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(VssError, match="x goes wrong at"):
        read_list(text, "x")


# ---- against the test writer ----

CONFIG = """
supports_incremental = true
cut_logs = true
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "database"
component_name = "TestFiles"
stamps = true
component_file = [
    { path = "{data}", filespec = "*.db", inc_backup_required = false, {live} },
    { path = "{data}", filespec = "*.log", log_file = true, {live} },
]
differenced_file = [{ path = "{data}", filespec = "*.db", since = 0 }]
"""


def listen(writer: Any) -> list[str]:
    heard: list[str] = []
    original = writer.handle

    def handle(event: Any) -> Any:
        heard.append(event.event.value)
        return original(event)

    writer.handle = handle
    return heard


@pytest.fixture
def started(service: Any) -> list[str]:
    """The events that a test writer with two files hears."""
    (service.data / "a.db").write_bytes(b"a")
    (service.data / "b.db").write_bytes(b"b")
    (service.data / "1.log").write_bytes(b"1")
    return listen(service.writer(CONFIG))


def run(service: Any, mode: str, name: str, *more: str) -> int:
    return main([mode, "/S", f"{service.directory}/{name}.xml", "/D", f"{service.directory}/{name}", *more])


@pytest.mark.vss(130)
def test_increments_build_on_a_document(service: Any, started: list[str]) -> None:
    assert run(service, "/B", "full") == 0
    assert not (service.data / "1.log").exists(), "BackupComplete of a full backup"
    (service.data / "a.db").write_bytes(b"a, later")
    (service.data / "2.log").write_bytes(b"2")
    assert run(service, "/B", "one", "/T", "INCREMENTAL", "/Pre", f"{service.directory}/full.xml") == 0
    documents = [components_from_xml((service.directory / f"{n}.xml").read_bytes()) for n in ("full", "one")]
    stamps = [document.writers[0].components[0] for document in documents]
    assert stamps[1].previous_backup_stamp == stamps[0].backup_stamp
    for path in service.data.iterdir():
        path.unlink()
    assert run(service, "/R", "one") == 1, "nothing that it builds on is there"
    assert run(service, "/R", "full") == 0 and (service.data / "a.db").read_bytes() == b"a"
    assert run(service, "/R", "one") == 0
    assert (service.data / "a.db").read_bytes() == b"a, later" and (service.data / "b.db").read_bytes() == b"b"


@pytest.mark.vss(130)
@pytest.mark.parametrize(
    ("mode", "completed", "files"),
    [(["/Snapshot"], False, 0), (["/BC"], True, 0), (["/B", "/NBC"], False, 3), (["/B"], True, 3)],
)
def test_what_the_writer_hears_in_each_mode(
    service: Any, started: list[str], mode: list[str], completed: bool, files: int
) -> None:
    if mode[0] == "/B":
        assert run(service, mode[0], "b", *mode[1:]) == 0
        stored = [path for path in (service.directory / "b/files").rglob("*") if path.is_file()]
    else:
        assert main([*mode, "/S", f"{service.directory}/b.xml"]) == 0
        stored = []
        document = components_from_xml((service.directory / "b.xml").read_bytes())
        assert document.writers[0].components[0].backup_succeeded == completed
    service.wait(lambda: WriterEvent.BACKUP_SHUTDOWN in started)
    assert len(stored) == files and (WriterEvent.BACKUP_COMPLETE in started) == completed
    assert (service.data / "1.log").exists() != completed


@pytest.mark.vss(130)
def test_flags_reach_the_document(service: Any, started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(f"{service.directory}/list.txt")
    config.write_text(f'"{WRITER}" : "TestFiles";\n')
    assert run(service, "/B", "b", "/O", "/T", "COPY", "/C", str(config), "/V") == 0
    document = components_from_xml((service.directory / "b.xml").read_bytes())
    assert document.bootable_system_state and document.backup_type is BackupType.COPY and document.partial_files
    assert (
        f"TestFiles, 3 files\nthe backup components document is in {service.directory}/b.xml" in capsys.readouterr().out
    )
    assert run(service, "/R", "b", "/Auth") == 0
    run(service, "/B", "other")
    document_of_other = f"{service.directory}/other.xml"
    assert main(["/R", "/S", document_of_other, "/D", f"{service.directory}/b"]) == 1
    assert "name two that belong together" in capsys.readouterr().err


def test_it_stops_at_the_first_error(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    service.writer(CONFIG + '[[action]]\nwriter_event = "PrepareForBackup"\ncode = "VSS_E_WRITERERROR_RETRYABLE"\n')
    assert run(service, "/B", "b", "/StopError") == 1
    assert "failed at prepare backup" in capsys.readouterr().err and not (service.directory / "b").exists()
