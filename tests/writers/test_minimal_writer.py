"""The example of the documentation: a writer without this project's library takes part in a set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from shadowset.vss.enums import ComponentType, WriterEvent

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "minimal_writer.py"
E = WriterEvent


def test_it_is_small() -> None:
    code = [line for line in EXAMPLE.read_text().splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 30
    imports = {line.split()[1] for line in code if line.startswith(("import", "from"))}
    assert imports == {"msgpack", "socket", "sys"}


def test_it_says_what_it_takes() -> None:
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "usage: minimal_writer.py SOCKET DIRECTORY\n")


def test_it_takes_part(coordinator: Any, processes: Any, tmp_path: Path) -> None:
    process = processes.start(str(EXAMPLE), coordinator.path, str(tmp_path), stdout=subprocess.PIPE)
    side = coordinator.writer()
    metadata = side.ok(E.IDENTIFY).metadata
    assert (metadata.name, metadata.instance_id) == ("Minimal Writer", "instance-1")
    (component,) = metadata.components
    assert component.type == ComponentType.FILEGROUP
    assert component.files[0].path == str(tmp_path)
    events = (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE, E.THAW, E.POST_SNAPSHOT, E.BACKUP_COMPLETE)
    for event in (*events, E.BACKUP_SHUTDOWN):
        side.ok(event)
    side.drop()
    assert process.wait(10) == 0
    assert process.stdout.read().split() == ["identify", *events, "backup-shutdown"]
