"""Single files of a chain: over, beside or instead of what is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup.plan import Choice
from shadowset.requester.restore.single_files import restore_files
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType

WRITER = """
supports_incremental = true
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "filegroup"
component_name = "all"
component_file = [{ path = "{data}", filespec = "*", recursive = true, inc_backup_required = false, {live} }]
differenced_file = [{ path = "{data}", filespec = "*", recursive = true, since = 0 }]
"""


@pytest.fixture
def chain(service: Any) -> Any:
    """A full backup, and one of what changed; then all is changed again."""
    service.writer(WRITER)
    (service.data / "below").mkdir()
    for name in ("a.odt", "below/b.odt", "c.txt"):
        (service.data / name).write_bytes(f"{name}, full".encode())
    os.chmod(service.data / "a.odt", 0o640)
    assert service.backup("full", Choice(BackupType.FULL)).succeeded
    (service.data / "a.odt").write_bytes(b"a.odt, increment")
    (service.data / "c.txt").unlink()
    base = str(service.directory / "full")
    assert service.backup("increment", Choice(BackupType.INCREMENTAL, base=base)).succeeded
    (service.data / "a.odt").write_bytes(b"now")
    (service.data / "below/b.odt").unlink()
    return service


def test_what_is_there_stays_goes_or_stays_beside(chain: Any) -> None:
    backup, mine = str(chain.directory / "increment"), chain.data / "a.odt"
    found = {each.path: each for each in restore_files(backup, "*.odt", dry_run=True)}
    assert {path: bool(each.place) for path, each in found.items()} == {
        str(mine): False,
        str(chain.data / "below/b.odt"): True,
    }
    assert not (chain.data / "below/b.odt").exists(), "it was only said"
    restore_files(backup, "*.odt")
    assert mine.read_bytes() == b"now" and (chain.data / "below/b.odt").read_bytes() == b"below/b.odt, full"
    first, second = (restore_files(backup, str(mine), "keep-both")[0].place for _ in range(2))
    assert mine.read_bytes() == b"now" and first != second
    assert Path(first).read_bytes() == Path(second).read_bytes() == b"a.odt, increment"
    assert Path(first).suffix == ".odt" and Path(first).stat().st_mode & 0o777 == 0o640
    restore_files(backup, str(mine), "overwrite")
    assert mine.read_bytes() == b"a.odt, increment"
    assert not [name for name in os.listdir(chain.data) if name.startswith(".shadowset-")]


def test_elsewhere_and_what_is_not_there(chain: Any, tmp_path: Path) -> None:
    for backup, text in (("full", b"a.odt, full"), ("increment", b"a.odt, increment")):
        restore_files(str(chain.directory / backup), "*", below=str(tmp_path / "look" / backup))
        assert Path(f"{tmp_path}/look/{backup}{chain.data}/a.odt").read_bytes() == text
    assert not Path(f"{tmp_path}/look/increment{chain.data}/c.txt").exists(), "it was gone by then"
    with pytest.raises(VssError, match=r"no file of .* fits") as caught:
        restore_files(str(chain.directory / "increment"), "c.txt")
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND
    (chain.data / "below/b.odt").mkdir()
    with pytest.raises(VssError, match="is a directory now"):
        restore_files(str(chain.directory / "full"), "b.odt", "overwrite")
