"""vssadmin against a real coordinator, volume and writer."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from windows_tools import GUID, found, tool


@pytest.fixture
def one(chain: Any, wait_until: Any) -> Any:
    """A volume with a data base that the SQLite writer looks after."""
    chain.add_volumes((("one", "ext4", 64 << 20),))
    database = f"{chain.places['one']}/app.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("create table t(x)")
        connection.commit()
    chain.module("shadowset.writers.sqlite.main", database)
    wait_until("the writer", lambda: chain.cli("writers"))
    return chain


@pytest.mark.vss(127)
def test_shadows_are_made_listed_and_deleted(one: Any) -> None:
    place = one.places["one"]
    Path(f"{place}/file").write_text("then")
    made = tool(one, "vssadmin", "create", "shadow", f"/for={place}", "/autoretry=1")
    assert f"Successfully created shadow copy for '{place}'" in made
    (copy_id,) = found(f"Shadow Copy ID: {GUID}", made)
    (device,) = found(r"Shadow Copy Volume Name: (\S+)", made)
    assert os.path.exists(device)
    listed = tool(one, "vssadmin", "list", "shadows", "/for=one", f"/shadow={{{copy_id.upper()}}}")
    assert found(r"Shadow Copy Volume: (\S+)", listed) == [device]
    assert found(r"Original Volume: \((.+)\)(\S+)", listed) == [(place, "one")]
    assert "Type: ClientAccessible\n" in listed
    one.cli("create", "one", "--persistent")
    tool(one, "vssadmin", "create", "shadow", "/for=one")
    assert len(found(f"Shadow Copy ID: {GUID}", tool(one, "vssadmin", "list", "shadows"))) == 3
    refused = tool(one, "vssadmin", "delete", "shadows", "/for=one", "/oldest", answer="n\n", status=1)
    assert refused == ""
    told = tool(one, "vssadmin", "delete", "shadows", "/for=one", "/oldest", answer="y\n")
    assert "Do you really want to delete 1 shadow copies (Y/N): [N]?" in told
    assert "Successfully deleted 1 shadow copies." in told
    assert copy_id not in tool(one, "vssadmin", "list", "shadows")
    assert tool(one, "vssadmin", "delete", "shadows", "/all", "/quiet") == ""
    refused = tool(one, "vssadmin", "delete", "shadows", "/all", "/quiet", status=1)
    assert "none is client-accessible" in refused and "VSS_E_UNSUPPORTED_CONTEXT" in refused
    assert tool(one, "vssadmin", "delete", "shadows", "/all", "/any", "/quiet") == ""
    assert "No items found that satisfy the query." in tool(one, "vssadmin", "list", "shadows")
    assert tool(one, "vssadmin", "delete", "shadows", "/all", "/quiet", status=1) == ""


@pytest.mark.vss(127)
def test_lists_storage_and_reverts(one: Any) -> None:
    place = one.places["one"]
    writers = tool(one, "vssadmin", "list", "writers")
    assert found(r"Writer name: '(.+)'", writers) == ["SQLite Writer"]
    assert found(r"State: \[(\d+)\] (\w+)", writers) == [("1", "Stable")]
    assert found(r"Last error: (.+)", writers) == ["No error"]
    assert found("Provider type: (.+)", tool(one, "vssadmin", "list", "providers")) == ["System"]
    assert f"Volume path: {place}\n    Volume name: one" in tool(one, "vssadmin", "list", "volumes")
    assert "UNBOUNDED" in tool(one, "vssadmin", "list", "shadowstorage", "/for=one")
    tool(one, "vssadmin", "resize", "shadowstorage", "/for=one", f"/on={one.directory}", "/maxsize=300MB")
    storage = tool(one, "vssadmin", "list", "shadowstorage", f"/on={one.directory}")
    assert found(r"Maximum Shadow Copy Storage space: (\S+ \S+)", storage) == ["300.00 MB"]
    assert one.cli("storage", "list")[0]["max_size"] == 300 << 20
    assert "No items" in tool(one, "vssadmin", "list", "shadowstorage", "/on=/proc")
    refused = tool(one, "vssadmin", "resize", "shadowstorage", "/for=one", "/on=/proc", "/maxsize=1GB", status=1)
    assert "VSS_E_OBJECT_NOT_FOUND" in refused
    refused = tool(one, "vssadmin", "add", "shadowstorage", "/for=one", f"/on={one.directory}", status=1)
    assert "VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED" in refused
    (copy_id,) = found(f"Shadow Copy ID: {GUID}", tool(one, "vssadmin", "create", "shadow", "/for=one"))
    refused = tool(one, "vssadmin", "revert", "shadow", f"/shadow={copy_id}", "/forcedismount", "/quiet", status=1)
    assert "VSS_E_VOLUME_IN_USE" in refused
    assert "No items" in tool(one, "vssadmin", "query", "reverts", "/for=one")


def test_a_device_is_protected_reverted_and_let_go(chain: Any, wait_until: Any) -> None:
    image = f"{chain.directory}/spare.img"
    Path(image).write_bytes(b"then" * 4096)
    os.truncate(image, 16 << 20)
    tool(chain, "vssadmin", "add", "shadowstorage", f"/for={image}", f"/on={chain.directory}", "/maxsize=100MB")
    made = tool(chain, "vssadmin", "create", "shadow", "/for=spare")
    (copy_id,) = found(f"Shadow Copy ID: {GUID}", made)
    device = chain.cli("volume", "attach", "spare")["device"]
    try:
        with open(device, "r+b") as live:
            live.write(b"later")
    finally:
        chain.cli("volume", "detach", "spare")
    assert Path(image).read_bytes()[:5] == b"later"
    tool(chain, "vssadmin", "revert", "shadow", f"/shadow={{{copy_id}}}", answer="y\n")
    wait_until("the revert", lambda: "No items" in tool(chain, "vssadmin", "query", "reverts", "/all"), 60)
    assert Path(image).read_bytes()[:5] == b"thent"
    tool(chain, "vssadmin", "delete", "shadows", "/for=spare", "/all", "/quiet")
    tool(chain, "vssadmin", "delete", "shadowstorage", "/for=spare", "/quiet")
    assert chain.cli("volume", "list") == []
