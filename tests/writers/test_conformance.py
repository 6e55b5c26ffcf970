"""Writers in three languages and shapes keep every point; wrong ones are caught."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, WriterEvent
from shadowset.writers.conformance.bench import Bench
from shadowset.writers.conformance.main import main, name_of, try_point
from shadowset.writers.conformance.points import POINTS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
E = WriterEvent

WRONG = """
import os, socket, sys, msgpack
WRONG = sys.argv[2]
ID = "b1ef85a9-f82b-410e-8d48-d233a5618c2c"
while True:
    coordinator = socket.socket(socket.AF_UNIX)
    coordinator.connect(sys.argv[1])
    stream = coordinator.makefile("rwb")
    def send(message):
        body = msgpack.packb(message)
        stream.write(len(body).to_bytes(4, "big") + body)
        stream.flush()
    send({"kind": "hello", "writer_id": "x" if WRONG == "id" else ID, "name": "Wrong"})
    try:
        while 0 < (length := int.from_bytes(stream.read(4), "big")) < 1 << 24:
            message = msgpack.unpackb(stream.read(length))
            if message["kind"] != "event":
                instance = message.get("instance_id", "")
                continue
            event, reply = message["event"], {"kind": "reply", "seq": message["seq"]}
            document = {"writer_id": ID, "instance_id": instance, "name": "Wrong", "components": []}
            if WRONG == "instance":
                document["instance_id"] = "somebody"
            if WRONG == "path":
                document["components"] = [{"type": 2, "name": "f", "files": [{"path": "relative", "filespec": "*"}]}]
            if event == "identify" and WRONG != "metadata":
                reply["metadata"] = document
            if event == "thaw":
                reply.update({"foreign": {"components": [{"type": 2, "logical_path": "", "name": "not mine"}]},
                              "veto": {"veto": True, "code": 0x800423F4, "message": "no"},
                              "number": {"seq": 99}, "kind": {"kind": "banana"}}.get(WRONG, {}))
            if WRONG == "dies" and event == "abort":
                os._exit(1)
            send(reply)
    except OSError:
        pass
"""


def not_kept(command: list[str], *names: str) -> dict[str, str]:
    """The points that a writer does not keep, and why."""
    bench = Bench(command)
    try:
        bench.start()
        chosen = [point for point in POINTS if not names or name_of(point) in names]
        results = {name_of(point): try_point(point, bench) for point in chosen}
    finally:
        bench.close()
    return {name: remark for name, (kept, remark) in results.items() if not kept}


def test_the_template_keeps_every_point(tmp_path: Path) -> None:
    assert not not_kept([sys.executable, str(EXAMPLES / "writer_template.py"), str(tmp_path)])


@pytest.mark.vss(32)
def test_the_writer_in_c_keeps_every_point(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("not installed: gcc")
    program = str(tmp_path / "minimal_writer")
    options = ["-Wall", "-Wextra", "-Werror", "-o", program]
    subprocess.run(["cc", *options, EXAMPLES / "minimal_writer.c"], check=True, timeout=60)
    assert not not_kept([program, "{socket}", str(tmp_path)])


@pytest.mark.long
def test_the_minimal_writer_keeps_every_point(tmp_path: Path) -> None:
    assert not not_kept([sys.executable, str(EXAMPLES / "minimal_writer.py"), "{socket}", str(tmp_path)])


@pytest.mark.parametrize(
    ("wrong", "point", "words"),
    [
        ("id", "hello", "is no GUID"),
        ("metadata", "identify", "without metadata"),
        ("instance", "identify", "instance_id 'somebody'"),
        ("path", "identify", "relative"),
        ("foreign", "backup", "not mine"),
        ("veto", "backup", "thaw was answered with 0x800423f4 (no)"),
        ("number", "backup", "number 99 instead of"),
        ("kind", "backup", "not a message of this protocol"),
        ("dies", "abort-twice", "closed instead of an answer"),
        ("knocks", "refused", "wait between two tries"),
    ],
)
def test_a_wrong_writer_is_caught(tmp_path: Path, wrong: str, point: str, words: str) -> None:
    script = tmp_path / "wrong.py"
    script.write_text(WRONG)
    assert words in not_kept([sys.executable, str(script), "{socket}", wrong], point)[point]


def test_the_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    writer = [sys.executable, str(EXAMPLES / "minimal_writer.py"), "{socket}", str(tmp_path)]
    assert main(["--only", "hello", "--only", "backup", "--", *writer]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pass  hello: says hello first") and lines[-1] == "2 of 2 points kept"
    assert main(["--json", "--only", "hello", "--", *writer]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert main(["--only", "hallo", "--", "true"]) == 2
    assert "there is no point hallo" in capsys.readouterr().err
    assert main(["--", str(tmp_path / "nothing")]) == 2
    assert "cannot be run" in capsys.readouterr().err
    assert main(["--", "sh", "-c", "echo no licence; exit 7"]) == 2
    told = capsys.readouterr().err
    assert "sh ended with status 7 before it said hello, 3 times; it last printed: no licence no licence" in told


def test_the_template_holds_its_application_and_checks_what_comes_back(
    coordinator: Any, processes: Any, tmp_path: Path
) -> None:
    (tmp_path / "note").write_text("one")
    processes.start(str(EXAMPLES / "writer_template.py"), str(tmp_path))
    side = coordinator.writer()
    component = Component(ComponentType.FILEGROUP, "", "notes", file_restore_status=FileRestoreStatus.ALL)
    for event in (E.PREPARE_BACKUP, E.PREPARE_SNAPSHOT, E.FREEZE):
        side.ok(event, components=[component])
    with open(tmp_path / "lock", "w") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        side.ok(E.THAW)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        side.ok(E.PREPARE_SNAPSHOT)
        answer = side.ask(E.FREEZE)
        assert answer.veto and "was busy all the time" in answer.message
        side.ok(E.ABORT)
    side.ok(E.POST_RESTORE, components=[component])
    (tmp_path / "note").write_text("")
    answer = side.ask(E.POST_RESTORE, components=[component])
    assert "the note note is empty" in answer.message


def test_the_tutorial_shows_what_the_template_has() -> None:
    template = " ".join((EXAMPLES / "writer_template.py").read_text().split())
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "write-a-writer.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        assert " ".join(block.split()) in template, block
