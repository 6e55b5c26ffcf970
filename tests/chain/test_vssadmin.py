"""vssadmin against a real coordinator, volume and writer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from windows_tools import GUID, found, tool


@pytest.mark.vss(127)
def test_shadows_are_made_listed_and_deleted(chain: Any, database: str) -> None:
    place = chain.places["one"]
    Path(f"{place}/file").write_text("then")
    made = tool(chain, "vssadmin", "create", "shadow", f"/for={place}", "/autoretry=1")
    assert f"Successfully created shadow copy for '{place}'" in made
    (copy_id,) = found(f"Shadow Copy ID: {GUID}", made)
    (device,) = found(r"Shadow Copy Volume Name: (\S+)", made)
    assert os.path.exists(device)
    listed = tool(chain, "vssadmin", "list", "shadows", "/for=one", f"/shadow={{{copy_id.upper()}}}")
    assert found(r"Shadow Copy Volume: (\S+)", listed) == [device]
    assert found(r"Original Volume: \((.+)\)(\S+)", listed) == [(place, "one")]
    assert "Type: ClientAccessible\n" in listed
    chain.cli("create", "one", "--persistent")
    tool(chain, "vssadmin", "create", "shadow", "/for=one")
    assert len(found(f"Shadow Copy ID: {GUID}", tool(chain, "vssadmin", "list", "shadows"))) == 3
    refused = tool(chain, "vssadmin", "delete", "shadows", "/for=one", "/oldest", answer="n\n", status=1)
    assert refused == ""
    told = tool(chain, "vssadmin", "delete", "shadows", "/for=one", "/oldest", answer="y\n")
    assert "Do you really want to delete 1 shadow copies (Y/N): [N]?" in told
    assert "Successfully deleted 1 shadow copies." in told
    assert copy_id not in tool(chain, "vssadmin", "list", "shadows")
    assert tool(chain, "vssadmin", "delete", "shadows", "/all", "/quiet") == ""
    refused = tool(chain, "vssadmin", "delete", "shadows", "/all", "/quiet", status=1)
    assert "none is client-accessible" in refused and "VSS_E_UNSUPPORTED_CONTEXT" in refused
    assert tool(chain, "vssadmin", "delete", "shadows", "/all", "/any", "/quiet") == ""
    assert "No items found that satisfy the query." in tool(chain, "vssadmin", "list", "shadows")
    assert tool(chain, "vssadmin", "delete", "shadows", "/all", "/quiet", status=1) == ""


@pytest.mark.vss(127)
def test_lists_storage_and_reverts(chain: Any, database: str) -> None:
    place = chain.places["one"]
    writers = tool(chain, "vssadmin", "list", "writers")
    assert found(r"Writer name: '(.+)'", writers) == ["SQLite Writer"]
    assert found(r"State: \[(\d+)\] (\w+)", writers) == [("1", "Stable")]
    assert found(r"Last error: (.+)", writers) == ["No error"]
    assert "System" in found("Provider type: (.+)", tool(chain, "vssadmin", "list", "providers"))
    assert f"Volume path: {place}\n    Volume name: one" in tool(chain, "vssadmin", "list", "volumes")
    assert "UNBOUNDED" in tool(chain, "vssadmin", "list", "shadowstorage", "/for=one")
    tool(chain, "vssadmin", "resize", "shadowstorage", "/for=one", f"/on={chain.directory}", "/maxsize=300MB")
    storage = tool(chain, "vssadmin", "list", "shadowstorage", f"/on={chain.directory}")
    assert found(r"Maximum Shadow Copy Storage space: (\S+ \S+)", storage) == ["300.00 MB"]
    assert chain.cli("storage", "list")[0]["max_size"] == 300 << 20
    assert "No items" in tool(chain, "vssadmin", "list", "shadowstorage", "/on=/proc")
    refused = tool(chain, "vssadmin", "resize", "shadowstorage", "/for=one", "/on=/proc", "/maxsize=1GB", status=1)
    assert "VSS_E_OBJECT_NOT_FOUND" in refused
    refused = tool(chain, "vssadmin", "add", "shadowstorage", "/for=one", f"/on={chain.directory}", status=1)
    assert "VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED" in refused
    (copy_id,) = found(f"Shadow Copy ID: {GUID}", tool(chain, "vssadmin", "create", "shadow", "/for=one"))
    refused = tool(chain, "vssadmin", "revert", "shadow", f"/shadow={copy_id}", "/forcedismount", "/quiet", status=1)
    assert "VSS_E_VOLUME_IN_USE" in refused
    assert "No items" in tool(chain, "vssadmin", "query", "reverts", "/for=one")


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
