"""vshadow's flags against a real coordinator, volume and writer."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from windows_tools import GUID, found, start, tool


def shell(chain: Any, name: str, text: str) -> str:
    Path(f"{chain.directory}/{name}").write_text(text)
    return name


@pytest.mark.vss(129)
def test_copies_are_there_while_the_command_runs(chain: Any, database: str) -> None:
    script = shell(
        chain, "work.sh", '. ./setvar1.sh\ntest -e "$VSHADOW_DEVICE_1" && echo "$SHADOW_ID_1 $VSHADOW_SET_ID" > ids\n'
    )
    flags = (f"-exec={script}", "-script=setvar1.sh", "-bc=bc1.xml", "-wi=SQLite Writer", "-tracing")
    told = tool(chain, "vshadow", *flags, chain.places["one"])
    assert "Setting the VSS context to: 0x00000000" in told and "Auto_Release Differential" in told
    assert 'app.db" is in the set.' in told and told.rstrip().endswith("Snapshot creation done.")
    assert Path(f"{chain.directory}/ids").read_text().split() == [
        f"{{{found(f'SNAPSHOT ID = {GUID}', told)[0]}}}",
        f"{{{found(f'Creating shadow set {GUID}', told)[0]}}}",
    ]
    assert chain.cli("list") == []
    assert 'backupSucceeded="yes"' in Path(f"{chain.directory}/bc1.xml").read_text()
    restored = tool(chain, "vshadow", "-r=bc1.xml", f"-exec={shell(chain, 'restore.sh', 'touch restored')}")
    assert found(r'Component "SQLite Writer:(.+)"', restored) and os.path.exists(f"{chain.directory}/restored")
    assert "is to be restored" in tool(chain, "vshadow", "-rs=bc1.xml")
    refused = tool(chain, "vshadow", "-rs=bc1.xml", "-wx=sqlite writer", status=1)
    assert "VSS_E_OBJECT_NOT_FOUND" in refused
    failing = shell(chain, "fails.sh", "exit 7\n")
    refused = tool(chain, "vshadow", "-p", f"-exec={failing}", "one", status=1)
    assert "ended with status 7" in refused and chain.cli("list") == []
    refused = tool(chain, "vshadow", "-wi=SQLite Writer", "-wx=SQLite Writer", "one", status=1)
    assert "was excluded" in refused


def test_copies_stay_while_it_waits(chain: Any, database: str) -> None:
    waiting = start(chain, "vshadow", "-nw", "-wait", "one")
    with waiting, closing(waiting.stdin), closing(waiting.stdout):
        while waiting.stdout.readline() != "Press Enter to end.\n":
            assert waiting.poll() is None
        assert len(chain.cli("list")) == 1
        waiting.stdin.write("\n")
        waiting.stdin.flush()
        assert waiting.wait(60) == 0
    assert chain.cli("list") == []


@pytest.mark.vss(129)
def test_persistent_copies_are_shown_exposed_and_deleted(chain: Any, database: str) -> None:
    told = tool(chain, "vshadow", "-p", "-nw", "one")
    (copy_id,) = found(f"SNAPSHOT ID = {GUID}", told)
    (set_id,) = found(f"Shadow copy Set: {GUID}", told)
    (device,) = found("Shadow copy device name: (.+)", told)
    assert os.path.exists(device) and "No_Auto_Release Persistent No_Writers Differential" in told
    tool(chain, "vshadow", "-p", "one")
    assert found(f"SNAPSHOT ID = {GUID}", tool(chain, "vshadow", "-q"))[0] == copy_id
    assert found(f"SNAPSHOT ID = {GUID}", tool(chain, "vshadow", f"-qx={{{set_id}}}")) == [copy_id]
    os.mkdir(f"{chain.directory}/mnt")
    tool(chain, "vshadow", f"-el={{{copy_id.upper()}}},mnt")
    assert os.path.exists(f"{chain.directory}/mnt/app.db")
    assert f"Exposed locally as: {chain.directory}/mnt" in tool(chain, "vshadow", f"-s={copy_id}")
    assert copy_id in tool(chain, "vshadow", "-do")
    assert not os.path.ismount(f"{chain.directory}/mnt")
    assert "VSS_E_OBJECT_NOT_FOUND" in tool(chain, "vshadow", f"-ds={copy_id}", status=1)
    tool(chain, "vshadow", "-da", answer="n\n", status=1)
    tool(chain, "vshadow", "-da", answer="y\n")
    assert "There are no shadow copies." in tool(chain, "vshadow", "-q")
    assert "VSS_E_VOLUME_NOT_SUPPORTED" in tool(chain, "vshadow", "-p", "-t=bc.xml", "one", status=1)
    assert "VSS_WS_STABLE" in tool(chain, "vshadow", "-ws")
    assert "Database: Path" in tool(chain, "vshadow", "-wm2")
    assert tool(chain, "vshadow", "-wm3").startswith("<")
