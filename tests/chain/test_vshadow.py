"""vshadow's flags against a real coordinator, volume and writer."""

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


def shell(chain: Any, name: str, text: str) -> str:
    Path(f"{chain.directory}/{name}").write_text(text)
    return name


@pytest.mark.vss(129)
def test_copies_are_there_while_the_command_runs(one: Any) -> None:
    script = shell(
        one, "work.sh", '. ./setvar1.sh\ntest -e "$VSHADOW_DEVICE_1" && echo "$SHADOW_ID_1 $VSHADOW_SET_ID" > ids\n'
    )
    flags = (f"-exec={script}", "-script=setvar1.sh", "-bc=bc1.xml", "-wi=SQLite Writer", "-tracing")
    told = tool(one, "vshadow", *flags, one.places["one"])
    assert "Setting the VSS context to: 0x00000000" in told and "Auto_Release Differential" in told
    assert 'app.db" is in the set.' in told and told.rstrip().endswith("Snapshot creation done.")
    assert Path(f"{one.directory}/ids").read_text().split() == [
        f"{{{found(f'SNAPSHOT ID = {GUID}', told)[0]}}}",
        f"{{{found(f'Creating shadow set {GUID}', told)[0]}}}",
    ]
    assert one.cli("list") == []
    assert 'backupSucceeded="yes"' in Path(f"{one.directory}/bc1.xml").read_text()
    restored = tool(one, "vshadow", "-r=bc1.xml", f"-exec={shell(one, 'restore.sh', 'touch restored')}")
    assert found(r'Component "SQLite Writer:(.+)"', restored) and os.path.exists(f"{one.directory}/restored")
    assert "is to be restored" in tool(one, "vshadow", "-rs=bc1.xml")
    refused = tool(one, "vshadow", "-rs=bc1.xml", "-wx=SQLite Writer", status=1)
    assert "VSS_E_OBJECT_NOT_FOUND" in refused
    failing = shell(one, "fails.sh", "exit 7\n")
    refused = tool(one, "vshadow", "-p", f"-exec={failing}", "one", status=1)
    assert "ended with status 7" in refused and one.cli("list") == []
    refused = tool(one, "vshadow", "-wi=SQLite Writer", "-wx=SQLite Writer", "one", status=1)
    assert "was excluded" in refused


@pytest.mark.vss(129)
def test_persistent_copies_are_shown_exposed_and_deleted(one: Any) -> None:
    told = tool(one, "vshadow", "-p", "-nw", "one")
    (copy_id,) = found(f"SNAPSHOT ID = {GUID}", told)
    (set_id,) = found(f"Shadow copy Set: {GUID}", told)
    (device,) = found("Shadow copy device name: (.+)", told)
    assert os.path.exists(device) and "No_Auto_Release Persistent No_Writers Differential" in told
    tool(one, "vshadow", "-p", "one")
    assert found(f"SNAPSHOT ID = {GUID}", tool(one, "vshadow", "-q"))[0] == copy_id
    assert found(f"SNAPSHOT ID = {GUID}", tool(one, "vshadow", f"-qx={{{set_id}}}")) == [copy_id]
    os.mkdir(f"{one.directory}/mnt")
    tool(one, "vshadow", f"-el={{{copy_id.upper()}}},mnt")
    assert os.path.exists(f"{one.directory}/mnt/app.db")
    assert f"Exposed locally as: {one.directory}/mnt" in tool(one, "vshadow", f"-s={copy_id}")
    assert copy_id in tool(one, "vshadow", "-do")
    assert not os.path.ismount(f"{one.directory}/mnt")
    assert "VSS_E_OBJECT_NOT_FOUND" in tool(one, "vshadow", f"-ds={copy_id}", status=1)
    tool(one, "vshadow", "-da", answer="n\n", status=1)
    tool(one, "vshadow", "-da", answer="y\n")
    assert "There are no shadow copies." in tool(one, "vshadow", "-q")
    assert "VSS_E_VOLUME_NOT_SUPPORTED" in tool(one, "vshadow", "-p", "-t=bc.xml", "one", status=1)
    assert "VSS_WS_STABLE" in tool(one, "vshadow", "-ws")
    assert "Database: Path" in tool(one, "vshadow", "-wm2")
    assert tool(one, "vshadow", "-wm3").startswith("<")
