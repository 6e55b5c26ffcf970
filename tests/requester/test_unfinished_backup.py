"""Backups that were interrupted, and what the next one makes of what they left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup import copy, unfinished
from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.engine import BackupJob, BackupReport
from shadowset.requester.backup.plan import Choice
from shadowset.requester.backup.store import Target
from shadowset.requester.jobs.pool import Pool
from shadowset.requester.restore.verify import verify
from shadowset.vss.codes import Code, VssError

MIB = 1 << 20


@pytest.fixture
def lose_target(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From the given write on nothing can be written; 0: everything again."""
    real = copy.Fresh.write

    def lose(number: int) -> None:
        written = 0

        def write(self: copy.Fresh, target: int, data: memoryview, position: int) -> None:
            nonlocal written
            written += 1
            if number and written >= number:
                raise OSError(errno.EIO, "Input/output error")
            real(self, target, data, position)

        monkeypatch.setattr(copy.Fresh, "write", write)

    return lose


def backup(target: Path, pool: Pool | None = None) -> BackupReport:
    return BackupJob(str(target), Choice(), pool=pool).run()


def sound(target: Path, data: Path) -> None:
    """It is a finished backup of all of ``data``, and has nothing else."""
    assert verify(str(target)).differences == []
    files = [file for file in bundle.load(str(target)).files if file.stored]
    assert {file.path for file in files} == {str(path) for path in data.rglob("*") if path.is_file()}
    for file in files:
        assert (target / file.stored).read_bytes() == Path(file.path).read_bytes()
    stored = {str(path.relative_to(target)) for path in (target / "files").rglob("*") if path.is_file()}
    assert stored == {file.stored for file in files}
    assert not (target / unfinished.MARK).exists()


@pytest.mark.parametrize("pooled", [False, True])
def test_what_is_stored_is_not_stored_again(
    coordinator: Any, data: Path, tmp_path: Path, lose_target: Any, pooled: bool
) -> None:
    stock = data / "db" / "stock"
    for name in "abc":
        (stock / f"{name}.bin").write_bytes(os.urandom(4 * MIB))

    def pool() -> Pool | None:
        return Pool(str(tmp_path)) if pooled else None

    lose_target(11)
    with pytest.raises(VssError, match="Input/output error"):
        backup(tmp_path / "b", pool())
    assert unfinished.is_unfinished(str(tmp_path / "b"))
    with pytest.raises(VssError, match="is missing: this is no backup"):
        verify(str(tmp_path / "b"))
    lose_target(0)
    report = backup(tmp_path / "b", pool())
    assert report.succeeded and report.resumed
    assert 3 * MIB <= report.stored_bytes <= 5 * MIB, (
        "only what was missing, and the rest of the file that was cut short"
    )
    sound(tmp_path / "b", data)
    with pytest.raises(VssError, match="not empty"):
        backup(tmp_path / "b")


def test_what_changed_since_is_stored_as_it_is_now(
    coordinator: Any, data: Path, tmp_path: Path, lose_target: Any
) -> None:
    stock = data / "db" / "stock"
    (stock / "a.bin").write_bytes(bytes(MIB) + os.urandom(3 * MIB))
    (stock / "gone.bin").write_bytes(os.urandom(MIB))
    (stock / "becomes").mkdir()
    (stock / "becomes" / "file").write_text("in a directory")
    (stock / "turns").write_text("a file")
    (stock / "z.bin").write_bytes(os.urandom(MIB))
    lose_target(10)
    with pytest.raises(VssError):
        backup(tmp_path / "b")
    with open(stock / "a.bin", "r+b") as file:
        file.truncate(2 * MIB)
        file.seek(5)
        file.write(b"changed")
        file.truncate(3 * MIB)
    (stock / "gone.bin").unlink()
    shutil.rmtree(stock / "becomes")
    (stock / "becomes").write_text("a file")
    (stock / "turns").unlink()
    (stock / "turns").mkdir()
    (stock / "turns" / "inside").write_text("a directory")
    lose_target(0)
    assert backup(tmp_path / "b").resumed
    sound(tmp_path / "b", data)


def test_contents_of_other_backups_are_never_written_to(
    coordinator: Any, data: Path, tmp_path: Path, lose_target: Any
) -> None:
    """A stored file that an earlier backup has as well is left alone when the file has changed."""
    big = data / "db" / "stock" / "a.bin"
    big.write_bytes(first := os.urandom(2 * MIB))
    backup(tmp_path / "one", Pool(str(tmp_path)))
    (data / "db" / "stock" / "b.bin").write_bytes(os.urandom(9 * MIB))
    lose_target(9)
    with pytest.raises(VssError):
        backup(tmp_path / "two", Pool(str(tmp_path)))
    (stored,) = (tmp_path / "two").rglob("a.bin")
    assert stored.stat().st_nlink == 3
    big.write_bytes(os.urandom(2 * MIB))
    lose_target(0)
    backup(tmp_path / "two", Pool(str(tmp_path)))
    sound(tmp_path / "two", data)
    (old,) = (tmp_path / "one").rglob("a.bin")
    assert old.read_bytes() == first and verify(str(tmp_path / "one")).differences == []


def test_a_stored_content_that_is_damaged_is_stored_anew(
    coordinator: Any, data: Path, tmp_path: Path, lose_target: Any
) -> None:
    (data / "db" / "stock" / "a.bin").write_bytes(os.urandom(2 * MIB))
    (data / "db" / "stock" / "b.bin").write_bytes(os.urandom(9 * MIB))
    lose_target(9)
    with pytest.raises(VssError):
        backup(tmp_path / "b", Pool(str(tmp_path)))
    (stored,) = (tmp_path / "b").rglob("a.bin")
    assert stored.stat().st_nlink == 2
    with open(stored, "r+b") as file:
        file.write(b"damaged")
    lose_target(0)
    assert backup(tmp_path / "b", Pool(str(tmp_path))).resumed
    sound(tmp_path / "b", data)


def test_one_backup_at_a_time(tmp_path: Path) -> None:
    first = Target(str(tmp_path / "b"))
    with pytest.raises(VssError, match=r"another backup into .* is under way") as caught:
        Target(str(tmp_path / "b"))
    assert caught.value.code == Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS
    (tmp_path / "b" / "files").mkdir()
    first.give_up(copy.TargetError(Code.VSS_E_UNEXPECTED, "lost"))
    again = Target(str(tmp_path / "b"))
    assert again.resumed
    again.give_up(VssError(Code.VSS_E_WRITERERROR_RETRYABLE, "a writer was busy"))
    assert unfinished.is_unfinished(str(tmp_path / "b"))
    Target(str(tmp_path / "b")).give_up(copy.TargetError(Code.VSS_E_INSUFFICIENT_STORAGE, "full"))
    assert os.listdir(tmp_path / "b") == []
