"""diskshadow's scripts against a real coordinator, volume and writer."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from windows_tools import GUID, found, tool

SCRIPT = """\
#diskshadow script file
set context persistent
set metadata example.cab
set verbose on
begin backup
writer verify {{66a1ada7-319a-42d1-8f24-6ffa1700c734}}
add volume {place} alias systemvolumeshadow

create

expose %systemvolumeshadow% p
exec backupscript.sh
end backup
#End of script
"""


def rows(path: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("select count(*) from t").fetchone()[0])


def add_row(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("insert into t values(1)")
        connection.commit()


def run(chain: Any, script: str, status: int = 0) -> str:
    Path(f"{chain.directory}/script.dsh").write_text(script)
    return tool(chain, "diskshadow", "/s", "script.dsh", status=status)


@pytest.mark.vss(128)
def test_the_published_example_backs_up_and_restores(chain: Any, database: str) -> None:
    os.mkdir(f"{chain.directory}/p")
    os.mkdir(f"{chain.directory}/backup")
    Path(f"{chain.directory}/backupscript.sh").write_text(
        'test -n "$systemvolumeshadow" && test -n "$VSS_SHADOW_SET" && cp -a p/app.db* backup/\n'
    )
    told = run(chain, SCRIPT.format(place=chain.places["one"]))
    (copy_id,) = found(f"Alias systemvolumeshadow for shadow ID {GUID} set", told)
    (set_id,) = found(f"Alias VSS_SHADOW_SET for shadow set ID {GUID} set", told)
    assert f"* Shadow copy ID = {{{copy_id}}}\t%systemvolumeshadow%" in told
    assert found(r"Number of shadow copies listed: (\d+)", told) == ["1"]
    assert 'app.db" is in the set.' in told
    assert "writers not notified" not in told
    assert chain.cli("show", set_id)["snapshots"][0]["exposed_name"] == f"{chain.directory}/p"
    add_row(database)
    assert (rows(f"{chain.directory}/backup/app.db"), rows(database)) == (1, 2)
    Path(f"{chain.directory}/restore.sh").write_text(f"cp -a backup/app.db {database}\n")
    restored = run(
        chain,
        "load metadata example.cab\nsimulate restore\nbegin restore\nexec restore.sh\nend restore\n"
        f"unexpose p\ndelete shadows id {{{copy_id}}}\nlist shadows all\n",
    )
    assert found(r"(\S+)\" would be restored", restored) and "Number of shadow copies deleted: 1" in restored
    assert found(r"Number of shadow copies listed: (\d+)", restored) == ["0"]
    assert rows(database) == 1
    document = chain.raw("documents", "verify", f"{chain.directory}/example.cab")
    assert document.returncode == 0 and "2 documents" in document.stdout


@pytest.mark.vss(128)
def test_volatile_copies_go_and_failures_end_a_script(chain: Any, database: str) -> None:
    typed = "add volume one\ncreate\nfrobnicate\nlist shadows id %vss_shadow_1%\nlist writers detailed\n"
    told = tool(chain, "diskshadow", answer=typed)
    assert found(r"Number of shadow copies listed: (\d+)", told) == ["1", "1"]
    assert "Auto_Release Differential" in told and "Database: Path" in told
    assert chain.cli("list") == []
    Path(f"{chain.directory}/fails.sh").write_text("exit 3\n")
    lines = "set context persistent nowriters\nadd volume one\ncreate\n"
    refused = run(chain, f"{lines}exec fails.sh\ndelete shadows all\n", status=1)
    assert "fails.sh ended with status 3" in refused
    assert len(chain.cli("list")) == 1
    run(chain, "delete shadows oldest one\n")
    assert chain.cli("list") == []
    for line, why in (
        ("writer verify Nobody\nadd volume one\ncreate", "there is no writer 'Nobody'"),
        ("add volume /proc", "VSS_E_VOLUME_NOT_SUPPORTED"),
        ("writer exclude SQLite Writer\nwriter verify SQLite Writer\nadd volume one\ncreate", "was excluded"),
        ("set option plex\nadd volume one\ncreate", "PLEX"),
    ):
        assert why in run(chain, line, status=1)
    # Nothing that failed keeps others from making their sets.
    assert chain.cli("create", "one", "--no-writers", "--wait", "0s")["snapshots"]


def test_a_set_becomes_volumes_of_its_own(chain: Any, database: str) -> None:
    os.mkdir(f"{chain.directory}/images")
    told = run(
        chain,
        "set context persistent\nadd volume one\ncreate\nbreak writable %VSS_SHADOW_SET% images\nlist shadows all\n",
    )
    image = f"{chain.directory}/images/one.img"
    assert found("is the volume (.+)[.]", told) == [image]
    assert found(r"Number of shadow copies listed: (\d+)", told) == ["1", "0"]
    shown = subprocess.run(
        ["debugfs", "-R", "stat /app.db", image], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Type: regular" in shown.stdout
