"""The host's list of files that are not backed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.system_list import files_not_to_backup
from shadowset.vss.codes import VssError
from shadowset.vss.metadata import ExcludedFiles

WRITER = """
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "filegroup"
component_name = "files"
component_file = [{ path = "{data}", filespec = "*", recursive = true, {live} }]
"""


def test_entries_and_the_writers_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    assert files_not_to_backup(str(path), ()) == ()
    path.write_text('"A" = ["/a/*.tmp", "$HOME/x/* /s"]\n"B" = ["/b/*"]\n')
    both = (ExcludedFiles("/a", "*.tmp"), ExcludedFiles("$HOME/x", "*", True), ExcludedFiles("/b", "*"))
    assert files_not_to_backup(str(path), ()) == both
    assert files_not_to_backup(str(path), {"A", "C"}) == both[2:]


@pytest.mark.parametrize(
    ("text", "words"),
    [("A = 1", "'A' has to be a list"), ('A = ["x/*"]', "names no files"), ('A = ["/x/"]', "names no files"),
     ("A = [", "is not TOML"), ("A = [1]", "has to be a list")],
)  # fmt: skip
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "list.toml"
    path.write_text(text)
    with pytest.raises(VssError, match=words) as caught:
        files_not_to_backup(str(path), ())
    assert str(path) in caught.value.message


@pytest.mark.vss(48)
@pytest.mark.parametrize("name", ["Something else", "Test Writer"])
def test_only_without_its_writer(service: Any, name: str) -> None:
    (service.data / "deep").mkdir()
    for path in ("keep", "a.tmp", "deep/b.tmp"):
        (service.data / path).write_bytes(b"then")
    service.writer(WRITER)
    listed = Path(service.paths.not_to_backup)
    listed.parent.mkdir(exist_ok=True)
    listed.write_text(f'"{name}" = ["{service.data}/*.tmp /s"]\n')
    try:
        assert service.backup("b").succeeded
    finally:
        listed.unlink()
    kept = {Path(file.path).name for file in bundle.load(str(service.directory / "b")).files if file.kind == "file"}
    assert kept == ({"keep"} if name == "Something else" else {"keep", "a.tmp", "b.tmp"})
    for path in ("keep", "a.tmp", "deep/b.tmp"):
        (service.data / path).write_bytes(b"now")
    assert service.restore("b").succeeded
    assert (service.data / "keep").read_bytes() == b"then"
    assert (service.data / "a.tmp").read_bytes() == (b"now" if name == "Something else" else b"then")
