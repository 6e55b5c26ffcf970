"""Parts of the farm by themselves."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from shadowset.writers.farm.database import FarmDatabase, LostFileError
from shadowset.writers.farm.gate import Gate, GateShutError
from shadowset.writers.farm.search import SearchError, SearchService

pytest.importorskip("tantivy")
from shadowset.writers.farm.index import SearchIndex


def fingerprint(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()}


def test_a_quiesced_index_is_complete_and_still(tmp_path: Path) -> None:
    """The eighth segment, which quiesce commits, sets the merging threads to work."""
    index = SearchIndex(str(tmp_path))
    for segment in range(8):
        for number in range(250):
            index.put(f"document-{segment}-{number}", 1, " ".join(f"w{segment * number * k}" for k in range(250)))
        if segment < 7:
            index.commit()
    index.put("document-3-3", 2, "other")
    index.quiesce()
    before = fingerprint(tmp_path)
    time.sleep(0.5)
    assert fingerprint(tmp_path) == before
    entries = SearchIndex(str(tmp_path)).entries()
    assert len(entries) == 2000
    assert ("document-3-3", 2) in entries
    assert index.search("other") == ["document-3-3"]


def test_a_quiesced_index_gives_its_lock_back_and_takes_it_again(tmp_path: Path) -> None:
    index, other = SearchIndex(str(tmp_path)), SearchIndex(str(tmp_path))
    for user in (index, other, index):
        user.put("document", 1, "text")
        user.commit()
        user.quiesce()
    assert index.entries() == [("document", 1)]


def test_a_file_lost_amid_a_transaction_is_told_as_lost(tmp_path: Path) -> None:
    """SQLite itself only says that the database is read-only."""
    (tmp_path / "content.db").touch()
    database = FarmDatabase("content", str(tmp_path / "content.db"))
    with database.write() as connection:
        connection.execute("CREATE TABLE line (text TEXT)")
    with pytest.raises(LostFileError, match=r"content\.db is gone"), database.write() as connection:
        (tmp_path / "content.db").rename(tmp_path / "elsewhere.db")
        connection.execute("INSERT INTO line VALUES ('late')")
    database.close()


def test_a_search_service_that_dies_says_so(tmp_path: Path) -> None:
    service = SearchService(str(tmp_path))
    service.call("put", "a", 1, "text")
    with pytest.raises(SearchError, match="no call"):
        service.call("explode")
    service._process.kill()
    with pytest.raises(SearchError, match=r"ended with status -9|is gone"):
        service.call("commit")
    service.close()


def test_an_index_of_garbage_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_bytes(b"\x00garbage")
    with pytest.raises(SearchError, match="cannot be opened"):
        SearchService(str(tmp_path))


def test_a_closed_gate_lets_those_inside_finish_and_nobody_in() -> None:
    gate = Gate()
    inside, leave, entered = threading.Event(), threading.Event(), threading.Event()

    def long_request() -> None:
        with gate.request():
            inside.set()
            leave.wait(10)

    def late_request() -> None:
        with gate.request():
            entered.set()

    threads = [threading.Thread(target=long_request), threading.Thread(target=late_request)]
    threads[0].start()
    assert inside.wait(5)
    gate.close()
    threads[1].start()
    assert not gate.drain(lambda: True)
    leave.set()
    assert gate.drain(lambda: False)
    assert not entered.wait(0.1)
    gate.open()
    assert entered.wait(5)
    for thread in threads:
        thread.join()
    gate.close()
    gate.shut()
    with pytest.raises(GateShutError), gate.request():
        pass
