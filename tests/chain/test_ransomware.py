"""What encrypts a server and its copies: every known way to be rid of them is tried, and they come back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from windows_tools import tool

CONTENT = b"the books of ten years\n" * 4096
GRACE = "[limit]\ndeletion_grace_ms = 259200000\n"


def restart(chain: Any, wait_until: Any) -> None:
    chain.daemon.terminate()
    chain.daemon.wait(60)
    chain.start_daemon()
    wait_until("the volume", lambda: [each["state"] for each in chain.cli("volume", "list")] == ["online"])


@pytest.fixture
def server(chain: Any, wait_until: Any) -> Iterator[Any]:
    """A volume with files and two shadow copies, where the administrator has delayed deletion."""
    settings = Path(chain.directory) / "etc/shadowsetd.d/deletion.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(GRACE)
    chain.environment["SHADOWSET_CONFIG_DIR"] = f"{chain.directory}/etc"
    chain.add_volumes((("one", "ext4", 64 << 20),))
    restart(chain, wait_until)
    for number in range(8):
        Path(f"{chain.places['one']}/book{number}").write_bytes(CONTENT)
    os.sync()
    chain.cli("create", "one")
    chain.cli("create", "one", "--context", "client-accessible")
    yield chain
    settings.unlink()
    restart(chain, wait_until)
    wait_until("what is aside to go", lambda: not chain.cli("undelete"))
    purged = [each for each in chain.cli("events") if each["name"] == "snapshot-purged"]
    assert len(purged) == 2 and not any(each["actor"] for each in purged)
    assert chain.describe("one").copies == []


@pytest.mark.vss(106)
def test_the_copies_survive_whoever_deletes_all_of_them(server: Any) -> None:
    before = {each["snapshot_id"]: each for each in server.cli("list")}
    assert len(before) == 2
    # it makes sure that nothing can be taken back
    assert tool(server, "vssadmin", "delete", "shadows", "/all", "/quiet") == ""
    assert server.cli("delete", "--all", "--yes", "--force")["deleted"] == 1
    shrink = ("resize", "shadowstorage", "/for=one", f"/on={server.directory}", "/maxsize=2MB")
    assert "made to keep less" in tool(server, "vssadmin", *shrink, status=1)
    refused = server.raw("volume", "remove", "one", "--force")
    assert refused.returncode == 1 and server.cli("volume", "list")
    assert "can still be taken back" in refused.stderr or "attached" in refused.stderr
    assert server.cli("list") == []
    # then it overwrites everything
    for path in Path(server.places["one"]).glob("book*"):
        path.write_bytes(os.urandom(len(CONTENT)))
    os.sync()
    # the administrator looks, and takes them back
    deleted = server.cli("undelete")
    assert {each["copy"]["snapshot_id"] for each in deleted} == set(before)
    assert all("user 0, process " in each["actor"] for each in deleted)
    names = [each["actor"].rpartition("calls itself ")[2] for each in deleted]
    assert sorted(names) == ["'shadowset delete'", "'vssadmin'"]
    assert "STILL FOR" in server.raw("undelete").stdout
    assert len(server.cli("undelete", "--all")) == 2
    assert {each["snapshot_id"] for each in server.cli("list")} == set(before)
    place = Path(server.directory) / "then"
    place.mkdir()
    for snapshot_id in before:
        server.cli("mount", snapshot_id, str(place))
        try:
            books = sorted(place.glob("book*"))
            assert len(books) == 8 and all(book.read_bytes() == CONTENT for book in books)
        finally:
            server.cli("umount", snapshot_id)
    events = server.cli("events")
    assert [each["name"] for each in events if each["actor"]].count("snapshot-deleted") == 2
    assert server.cli("delete", "--all", "--yes")["deleted"] == 2
