"""The search index writer as a process, event by event, with real indexes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from embedded_application import KINDS

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, WriterEvent
from shadowset.writers.index.library import Library, library_of
from shadowset.writers.index.settings import Settings
from shadowset.writers.naming import component_identity
from shadowset.writers.server_settings import read_settings

E = WriterEvent
KIND_NAMES = ("xapian", "tantivy")


class Index:
    """An index with three documents, and its writer."""

    def __init__(self, kind: str, top: Path) -> None:
        self.kind, self.path, self.config = kind, top / "index", top / "writer.toml"
        try:
            self.library: Library = library_of(kind)
        except VssError as error:
            pytest.skip(error.message)
        self.path.mkdir()
        self.application = KINDS[kind](str(self.path))
        for number in range(3):
            self.application.put(number)
        self.configure()

    def configure(self, extra: str = "") -> None:
        self.config.write_text(f'[[index]]\nkind = "{self.kind}"\npath = "{self.path}"\n{extra}\n')

    def files(self) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(self.path.iterdir())}

    def start(self, processes: Any, coordinator: Any) -> Any:
        process = processes.start("-m", "shadowset.writers.index.main", "--config", str(self.config))
        side = coordinator.writer()
        side.process = process
        return side

    def chosen(self, **fields: Any) -> list[Component]:
        return [Component(ComponentType.FILEGROUP, *component_identity(str(self.path)), **fields)]

    def freeze(self, side: Any, **fields: Any) -> Any:
        side.ok(E.PREPARE_BACKUP, components=self.chosen())
        side.ok(E.PREPARE_SNAPSHOT)
        return side.ask(E.FREEZE, **fields)

    def free(self) -> bool:
        release = self.library.lock(str(self.path))
        if release is not None:
            release()
        return release is not None


@pytest.fixture(params=KIND_NAMES)
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    return Index(request.param, tmp_path)


def test_the_lock_is_held_and_a_restored_index_is_that_of_the_cut(
    index: Index, processes: Any, coordinator: Any, tmp_path: Path
) -> None:
    index.configure('agree_command = ["sh", "-c", "test $SHADOWSET_DOCUMENTS = 3 || { echo 1 row more; false; }"]')
    side = index.start(processes, coordinator)
    before = index.files()
    assert index.freeze(side).code == 0
    assert not index.free() and index.files() == before
    assert index.application.numbers() == [0, 1, 2]  # searching goes on
    shutil.copytree(index.path, tmp_path / "copy")
    side.ok(E.THAW)
    assert index.free()
    (component,) = side.ok(E.POST_SNAPSHOT, components=index.chosen()).components
    assert component.backup_stamp.startswith("documents=3 generation=")
    index.application.put(3)

    component.selected_for_restore = True
    release = index.library.lock(str(index.path))
    answer = side.ask(E.PRE_RESTORE, components=[component])
    assert answer.veto and "runs" in answer.message
    assert release is not None
    release()
    side.ok(E.PRE_RESTORE, components=[component])
    component.file_restore_status = FileRestoreStatus.ALL
    answer = side.ask(E.POST_RESTORE, components=[component])
    assert "documents=4" in answer.message and "instead of documents=3" in answer.message
    shutil.rmtree(index.path)
    shutil.copytree(tmp_path / "copy", index.path)
    side.ok(E.POST_RESTORE, components=[component])
    component.backup_stamp = ""
    index.application = KINDS[index.kind](str(index.path))
    index.application.put(3)
    answer = side.ask(E.POST_RESTORE, components=[component])
    assert "its database are apart (1 row more)" in answer.message


def test_an_indexer_that_never_lets_go(index: Index, processes: Any, coordinator: Any) -> None:
    side = index.start(processes, coordinator)
    release = index.library.lock(str(index.path))
    assert release is not None
    answer = index.freeze(side, deadline_ms=1000)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_RETRYABLE, True)
    assert "locked by its indexer" in answer.message
    side.ok(E.ABORT)
    index.configure("required = false")
    side = index.start(processes, coordinator)
    assert index.freeze(side, deadline_ms=1000).code == 0
    side.ok(E.THAW)
    (component,) = side.ok(E.POST_SNAPSHOT, components=index.chosen()).components
    assert "as it lay" in component.backup_metadata and not component.backup_stamp
    assert component.failure.message == "only crash-consistent: its indexer held its lock all the time"
    release()


def test_a_killed_writer_holds_nobody_up(index: Index, processes: Any, coordinator: Any) -> None:
    side = index.start(processes, coordinator)
    assert index.freeze(side).code == 0
    side.process.kill()
    side.process.wait()
    index.application.put(3)
    assert index.application.numbers() == [0, 1, 2, 3]


def test_a_change_past_the_lock_fails_the_writer(processes: Any, coordinator: Any, tmp_path: Path) -> None:
    index = Index("tantivy", tmp_path)
    side = index.start(processes, coordinator)
    assert index.freeze(side).code == 0
    (index.path / ".tantivy-writer.lock").unlink()
    index.application.put(3)
    answer = side.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE
    assert answer.message.startswith("the index ") and "changed under its lock" in answer.message


def test_what_is_not_sound_is_told(index: Index, processes: Any) -> None:
    command = ("-m", "shadowset.writers.index.main", "--config", str(index.config), "--check")
    done = processes.run(*command)
    assert done.returncode == 0 and "documents=3" in done.stdout
    for path in index.path.iterdir():
        if path.name.endswith((".store", "postlist.glass")):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = processes.run(*command)
    assert done.returncode == 1 and "are not sound" in done.stderr


def test_a_wrong_configuration_is_told(tmp_path: Path, processes: Any) -> None:
    path = tmp_path / "x.toml"
    for text, problem in (
        ('[[index]]\nkind = "xapian"\npath = "x"\n', "give an absolute one"),
        ('[[index]]\nkind = "lucene"\npath = "/x"\n', "Invalid enum value 'lucene'"),
    ):
        path.write_text(text)
        with pytest.raises(VssError, match=problem):
            read_settings(str(path), Settings)
    done: subprocess.CompletedProcess[str] = processes.run("-m", "shadowset.writers.index.main")
    assert done.returncode == 1 and "no index was named" in done.stderr
