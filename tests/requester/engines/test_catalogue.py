"""The backups in a directory: listed, linked and searched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup.catalogue import Catalogue
from shadowset.requester.backup.plan import parse_selector
from shadowset.requester.cli import main
from shadowset.vss.codes import VssError

WRITER = """
supports_incremental = true
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "filegroup"
component_name = "files"
stamps = true
component_file = [{ path = "{data}", filespec = "*", inc_backup_required = false, {live} }]
differenced_file = [{ path = "{data}", filespec = "*", since = 0 }]
"""


@pytest.fixture
def backups(service: Any) -> Path:
    """A full backup, two increments and a copy, by the command line."""
    place = service.directory / "backups"
    (place / "deeper").mkdir(parents=True)
    (service.data / "a.txt").write_bytes(b"a")
    (service.data / "b.txt").write_bytes(b"b")
    service.writer(WRITER)
    assert main(["backup", str(place / "full"), "--type", "full"]) == 0
    (service.data / "a.txt").write_bytes(b"later")
    assert main(["backup", str(place / "one"), "--type", "incremental", "--base", "auto"]) == 0
    assert main(["backup", str(place / "two"), "--type", "incremental", "--base", "auto"]) == 0
    assert main(["backup", str(place / "deeper/copy")]) == 0
    return Path(place)


@pytest.mark.vss(67)
def test_versions_and_what_they_build_on(service: Any, backups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions = {Path(each.directory).name: each for each in Catalogue([str(backups)]).versions()}
    assert {name: each.backup_type for name, each in versions.items()} == {
        "full": "FULL", "one": "INCREMENTAL", "two": "INCREMENTAL", "copy": "COPY",
    }  # fmt: skip
    assert versions["one"].needs == str(backups / "full") and versions["two"].needs == str(backups / "one")
    assert versions["full"].needed_by == [str(backups / "one")] and not any(each.trouble for each in versions.values())
    capsys.readouterr()
    assert main(["backups", str(backups), "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)[0]["directory"]).name == "full"
    assert main(["backups", str(backups)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if f"{backups}/two" in line)
    assert line.split()[1:3] == ["incremental", "yes"] and line.endswith(f"{backups}/one")


@pytest.mark.vss(67)
def test_components_and_files_are_found(service: Any, backups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = Catalogue([str(backups / "full"), str(backups)])
    assert len(catalogue.versions((parse_selector("Test Writer:files"),))) == 4, "a backup counts once"
    assert catalogue.versions((parse_selector("Test Writer:others"),)) == []
    found = {Path(file.directory).name: file for file in catalogue.files("a.*")}
    assert {name: (file.bytes, file.stored) for name, file in found.items()} == {
        "full": (1, True), "one": (5, True), "two": (5, False), "copy": (5, True),
    }  # fmt: skip
    capsys.readouterr()
    assert main(["backups", str(backups), "--file", f"{service.data}/b*"]) == 0
    assert capsys.readouterr().out.count("b.txt") == 4
    assert main(["backups", str(backups), "--file", "none"]) == 1


@pytest.mark.vss(67)
def test_what_cannot_be_restored_is_named(service: Any, backups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(backups / "one", service.directory / "away")
    (backups / "deeper/copy/manifest.json").write_text("{")
    capsys.readouterr()
    assert main(["backups", str(backups)]) == 1
    told = capsys.readouterr().err
    assert f"{backups}/two cannot be restored: its base is not at {backups}/one" in told
    assert f"{backups}/deeper/copy cannot be restored" in told and "damaged" in told
    (backups / "full/manifest.json").write_text("{")
    shutil.move(service.directory / "away", backups / "one")
    versions = {Path(each.directory).name: each for each in Catalogue([str(backups)]).versions()}
    assert all(versions[name].trouble for name in ("full", "one", "two"))


def test_there_is_nothing_to_build_on(service: Any, backups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(service.directory / "elsewhere/one")
    (service.directory / "elsewhere").mkdir()
    assert main(["backup", target, "--type", "differential", "--base", "auto"]) == 1
    assert "no full backup of this host to build on; make a full one" in capsys.readouterr().err
    with pytest.raises(VssError, match="cannot be read"):
        Catalogue([str(backups / "nowhere")])
