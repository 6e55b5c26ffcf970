"""Where files go by the word of the writer and of the user, against the test writer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup.plan import Choice, parse_selector
from shadowset.requester.cli import main
from shadowset.requester.restore.engine import RestoreJob
from shadowset.requester.restore.wishes import Relocation, Wishes
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType, FileRestoreStatus, RollForward, WriterEvent
from shadowset.vss.restore_options import options_for, parse_options

ALL, NONE = FileRestoreStatus.ALL, FileRestoreStatus.NONE
FILES = parse_selector("Test Writer:files")
COPY = Choice(BackupType.COPY)
MAPPING = (
    '[[restore_method.alternate_location_mapping]]\npath = "{data}"\nfilespec = "*"\nalternate_path = "{data}/other"\n'
)


def writer(method: str = "RESTORE_IF_CAN_REPLACE", component: str = "", top: str = "", mapping: str = MAPPING) -> str:
    return (
        f'check_includes = true\n{top}[restore_method]\nmethod = "{method}"\n{mapping}[[component]]\n'
        f'component_type = "filegroup"\ncomponent_name = "files"\n{component}\n'
        'component_file = [{ path = "{data}", filespec = "*", {live} }]\n'
    )


def listen(one: Any) -> list[tuple[str, Any]]:
    """The component in each event of a restore, when the writer has done with it."""
    heard: list[tuple[str, Any]] = []
    original = one.handle

    def handle(event: Any) -> Any:
        answer = original(event)
        if event.event in (WriterEvent.PRE_RESTORE, WriterEvent.POST_RESTORE):
            heard.append((event.event.value, event.components[0]))
        return answer

    one.handle = handle
    return heard


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


# ---- what the writer says in PreRestore ----


@pytest.mark.vss(49, 71)
@pytest.mark.parametrize(
    ("target", "method", "there", "place"),
    [
        ("original", "RESTORE_IF_CAN_REPLACE", True, ""),
        ("original", "RESTORE_IF_NOT_THERE", True, "other"),
        ("original", "RESTORE_IF_NOT_THERE", False, ""),
        ("alternate", "RESTORE_IF_CAN_REPLACE", True, "other"),
        ("original_location", "RESTORE_IF_NOT_THERE", True, ""),
        ("original_location", "RESTORE_TO_ALTERNATE_LOCATION", True, ""),
    ],
)
def test_the_target_that_the_writer_sets(service: Any, target: str, method: str, there: bool, place: str) -> None:
    one = service.writer(writer(method, f'restore_target = "{target}"'))
    heard = listen(one)
    (service.data / "file").write_bytes(b"then")
    service.backup("b", COPY)
    if there:
        (service.data / "file").write_bytes(b"now")
    else:
        (service.data / "file").unlink()
    report = service.restore("b")
    assert report.succeeded, report
    assert read(service.data / place / "file") == b"then"
    if place:
        assert read(service.data / "file") == (b"now" if there else b"")
        (mapping,) = heard[-1][1].alternate_location_mappings
        assert mapping.alternate_path == str(service.data / "other")
    assert heard[-1][1].file_restore_status == ALL


@pytest.mark.vss(72)
def test_directed_targets_with_ranges(service: Any) -> None:
    moved = 200 * 1024
    ranges = f'source_ranges = "1000:{moved},0:10", destination_ranges = "5:{moved},{moved + 100}:10"'
    directed = (
        'restore_target = "directed"\n'
        f'directed_target = [ {{ source_path = "{{data}}", source_filename = "big", {ranges},'
        ' destination_path = "{data}/elsewhere", destination_filename = "target" },'
        ' { source_path = "{data}", source_filename = "small",'
        ' destination_path = "{data}/elsewhere", destination_filename = "new" } ]\n'
    )
    service.writer(writer(component=directed, mapping="").replace("check_includes = true", ""))
    big = os.urandom(moved + 5000)
    (service.data / "big").write_bytes(big)
    (service.data / "small").write_bytes(b"small")
    (service.data / "rest").write_bytes(b"rest")
    service.backup("b", COPY)
    (service.data / "elsewhere").mkdir()
    before = os.urandom(moved + 500)
    (service.data / "elsewhere/target").write_bytes(before)
    (service.data / "elsewhere/target").chmod(0o640)
    for name in ("big", "small", "rest"):
        (service.data / name).write_bytes(b"now")
    report = service.restore("b")
    assert report.succeeded and report.components[0].moved_to == [str(service.data / "elsewhere")]
    after = (service.data / "elsewhere/target").read_bytes()
    assert after[:5] == before[:5] and after[5 : 5 + moved] == big[1000 : 1000 + moved]
    assert after[5 + moved : moved + 100] == before[5 + moved : moved + 100]
    assert after[moved + 100 : moved + 110] == big[:10] and after[moved + 110 :] == before[moved + 110 :]
    assert (service.data / "elsewhere/target").stat().st_mode & 0o777 == 0o640
    assert read(service.data / "elsewhere/new") == b"small"
    assert [read(service.data / name) for name in ("big", "small", "rest")] == [b"now", b"now", b"rest"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ('source_filename = "none"', "which is not in the backup"),
        ('source_filename = "file", source_ranges = "0:4", destination_ranges = "0:3"', "do not pair"),
        ('source_filename = "file", source_ranges = "2:9", destination_ranges = "0:9"', "which are not in the backup"),
    ],
)
def test_directed_targets_that_cannot_be(service: Any, target: str, words: str) -> None:
    line = f'{{ source_path = "{{data}}", {target}, destination_path = "{{data}}", destination_filename = "x" }}'
    service.writer(writer(component=f'restore_target = "directed"\ndirected_target = [{line}]\n', mapping=""))
    (service.data / "file").write_bytes(b"then")
    service.backup("b", COPY)
    (service.data / "file").write_bytes(b"now")
    report = service.restore("b")
    assert report.components[0].status == NONE and words in report.components[0].reason
    assert read(service.data / "file") == b"now" and not (service.data / "x").exists()


@pytest.mark.vss(61)
@pytest.mark.parametrize("ranges_file", ["sub/ranges", "ranges"])
def test_parts_go_into_the_file_that_is_there(service: Any, ranges_file: str) -> None:
    parts = (
        'partial_file = [{ path = "{data}", filespec = "inline", ranges = "0:5,0x64:0x14" },'
        ' { path = "{data}", filespec = "listed", ranges = "{data}/%s" }]\n'
    ).replace("%s", ranges_file)
    heard = listen(service.writer(writer(component=parts, mapping="").replace("check_includes = true", "")))
    then, now = os.urandom(400), os.urandom(600)
    (service.data / "sub").mkdir()
    (service.data / ranges_file).write_bytes(b"".join(n.to_bytes(8, "little") for n in (1, 8, 100)))
    for name in ("inline", "listed"):
        (service.data / name).write_bytes(then)
    assert service.backup("b", COPY).succeeded
    (service.data / "inline").write_bytes(now)
    (service.data / "listed").unlink()
    (service.data / ranges_file).unlink()
    assert service.restore("b").succeeded
    assert (service.data / "inline").read_bytes() == then[:5] + now[5:100] + then[100:120] + now[120:400]
    assert (service.data / "listed").read_bytes() == bytes(8) + then[8:108] + bytes(292)
    ranges = heard[0][1].partial_files[1].ranges
    assert ranges.startswith(f"{service.directory}/b/files/") and len(Path(ranges).read_bytes()) == 24
    assert (service.data / ranges_file).exists() == (ranges_file == "ranges"), "only one in a file set is restored"


# ---- what the user wishes ----


@pytest.mark.vss(73)
def test_new_targets(service: Any) -> None:
    heard = listen(service.writer(writer()))
    (service.data / "file").write_bytes(b"then")
    service.backup("b", COPY)
    (service.data / "file").write_bytes(b"now")
    new = Wishes(relocations=(Relocation(FILES, str(service.data), str(service.directory / "new")),))
    report = service.restore("b", wishes=new)
    assert report.succeeded and report.components[0].moved_to == [str(service.directory / "new")], report
    assert read(service.directory / "new/file") == b"then" and read(service.data / "file") == b"now"
    assert heard[0][1].new_targets[0].alternate_path == str(service.directory / "new")
    with pytest.raises(VssError, match="has no files declared in /nowhere"):
        service.restore("b", wishes=Wishes(relocations=(Relocation(FILES, "/nowhere", "/x"),)))


@pytest.mark.vss(73)
def test_a_tree_goes_elsewhere_with_its_directories(service: Any) -> None:
    service.writer(writer().replace('filespec = "*", {live}', 'filespec = "*", recursive = true, {live}'))
    for name, mode in (("full", 0o711), ("empty", 0o750)):
        (service.data / name).mkdir()
        (service.data / name).chmod(mode)
    (service.data / "full/file").write_bytes(b"then")
    service.backup("b", COPY)
    there = service.directory / "there"
    there.mkdir(0o777)
    there.chmod(0o777)
    new = Wishes(relocations=(Relocation(FILES, str(service.data), str(there)),))
    report = service.restore("b", wishes=new)
    assert report.succeeded and report.components[0].moved_to == [str(there / "full")], report
    assert read(there / "full/file") == b"then"
    assert [(there / name).stat().st_mode & 0o777 for name in ("full", "empty")] == [0o711, 0o750]
    assert there.stat().st_mode & 0o777 == 0o777, "a directory that was there keeps its attributes"


@pytest.mark.vss(73)
def test_new_targets_need_the_schema_bit(service: Any) -> None:
    service.writer(writer(top="supports_new_target = false\n"))
    (service.data / "file").write_bytes(b"then")
    service.backup("b", COPY)
    (service.data / "file").write_bytes(b"now")
    new = Wishes(relocations=(Relocation(FILES, str(service.data), str(service.directory / "new")),))
    with pytest.raises(VssError, match="has no WRITER_SUPPORTS_NEW_TARGET") as caught:
        service.restore("b", wishes=new)
    assert caught.value.code == Code.VSS_E_NOT_SUPPORTED and read(service.data / "file") == b"now"


SUPPORTS = "supports_roll_forward = true\nsupports_restore_rename = true\nsupports_authoritative_restore = true\n"


@pytest.mark.vss(74, 75)
def test_wishes_reach_the_writer(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    heard = listen(service.writer(writer(top=SUPPORTS)))
    (service.data / "file").write_bytes(b"then")
    service.backup("b", COPY)
    who, options = "Test Writer:files", '"Roll Forward"="None","files\\part":"X"="1"'
    source = str(service.directory / "b")
    status = main(["restore", source, "--json", "--authoritative", who, "--rename", who, "orders-2",
                   "--roll-forward", who, "partial:12:30", "--option", who, options])  # fmt: skip
    assert status == 0 and json.loads(capsys.readouterr().out)["succeeded"]
    told = heard[0][1]
    assert told.authoritative_restore and told.restore_name == "orders-2"
    assert (told.roll_forward, told.roll_forward_point) == (RollForward.PARTIAL, "12:30")
    assert options_for(parse_options(told.restore_options), "files\\part") == {"roll forward": "None", "x": "1"}
    for wrong in (["--roll-forward", who, "partial"], ["--roll-forward", who, "some"], ["--option", who, '"X'],
                  ["--rename", "Test Writer:none", "x"]):  # fmt: skip
        assert main(["restore", source, *wrong]) == 1


@pytest.mark.vss(75)
def test_another_instance_takes_it(service: Any) -> None:
    top = "supports_restore_with_move = true\n"
    first = service.writer(writer(top=top))
    (service.data / "file").write_bytes(b"then")
    service.backup("b", COPY)
    other = service.writer(writer(top=f'{top}instance_name = "other"\n').replace("check_includes = true", ""))
    heard = [listen(first), listen(other)]
    known = service.instances()
    instance = next(each for each in known if each == other_instance(service, "other"))
    wishes = Wishes(instances=((parse_selector("Test Writer"), instance),))
    assert service.restore("b", wishes=wishes).succeeded
    assert [len(each) for each in heard] == [0, 2]
    with pytest.raises(VssError, match="no instance 1 of writer Test Writer runs"):
        service.restore("b", wishes=Wishes(instances=((parse_selector("Test Writer"), "1"),)))


def other_instance(service: Any, name: str) -> str:
    from shadowset.requester.administration import Administration

    with Administration(service.paths) as administration:
        return next(each.instance_id for each in administration.list_writers() if each.instance_name == name)


@pytest.mark.vss(65)
@pytest.mark.parametrize("event", ["PreRestore", "PostRestore"])
def test_failure_messages_of_a_restore(service: Any, event: str) -> None:
    failing = (
        f'[[action]]\nwriter_event = "{event}"\n[[action.fail_component]]\ncomponent_name = "files"\nmessage = "no"\n'
    )
    service.writer(writer().replace("check_includes = true", "") + failing)
    (service.data / "file").write_bytes(b"then")
    service.backup("b", COPY)
    (service.data / "file").write_bytes(b"now")
    report = service.restore("b")
    assert not report.succeeded
    if event == "PreRestore":
        assert report.components[0].reason.startswith("its writer says: no [") and not report.problems
        assert read(service.data / "file") == b"now"
    else:
        assert "after the restore of component files its writer says: no" in report.problems
        assert report.components[0].status == ALL and read(service.data / "file") == b"then"


# ---- restores that do not happen, and looking afterwards ----


@pytest.mark.vss(80)
def test_a_simulated_restore(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    heard = listen(service.writer(writer()))
    for name in ("same", "lost"):
        (service.data / name).write_bytes(name.encode())
    service.backup("b", COPY)
    (service.data / "lost").unlink()
    (service.data / "stale").write_bytes(b"stale")
    source = str(service.directory / "b")
    (found,) = RestoreJob(source, paths=service.paths).simulate()
    assert {Path(file.destination).name: file.action for file in found.files} == {"same": "replace", "lost": "create"}
    assert found.removed == [str(service.data / "stale")] and found.events and not found.reason
    assert main(["restore", source, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.endswith("In all 2 files of 8 B: 1 to create, 1 to replace, 0 to change; 1 to remove.\n")
    assert f"  create {service.data}/lost" in told and f"  remove {service.data}/stale" in told
    assert not heard and sorted(path.name for path in service.data.iterdir()) == ["same", "stale"]


@pytest.mark.vss(82)
def test_one_changed_byte_is_found_afterwards(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    service.writer(writer())
    contents = bytearray(os.urandom(100_000))
    (service.data / "file").write_bytes(contents)
    (service.data / "link").symlink_to("file")
    service.backup("b", COPY)
    source = str(service.directory / "b")
    assert service.restore("b").succeeded
    capsys.readouterr()
    assert main(["verify", source, "--restored"]) == 0
    assert capsys.readouterr().out.endswith(" files, all as in the backup\n")
    contents[70_000] ^= 1
    (service.data / "file").write_bytes(contents)
    (service.data / "link").unlink()
    capsys.readouterr()
    assert main(["verify", source, "--restored"]) == 1
    told = capsys.readouterr().out
    assert f"{service.data}/file has other contents than in the backup" in told
    assert told.endswith(" not as in the backup\n")
    assert f"{service.data}/link cannot be read" in told
    assert main(["verify", source]) == 0, "the backup itself is well"
