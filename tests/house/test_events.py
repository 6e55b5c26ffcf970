"""Every event of the code has its number, for ever, and stands in the table."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from shadowset.vss.events import ERROR, EVENTS, INFO, kind_of, message_id

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("daemon", "nbd_provider", "btrfs_provider", "image_provider")
EVENT = re.compile(r"[a-z]+(-[a-z]+)*")
RECORDERS = ("event", "_event", "_tell", "event_of")


def recorded(tree: ast.Module) -> Iterator[str]:
    """First arguments, as they stand, of calls that record an event."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0] if name in RECORDERS else ast.Constant(None)
            either = (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,)
            yield from (each.value for each in either if isinstance(each, ast.Constant) and isinstance(each.value, str))


def of_the_storage() -> set[str]:
    """The kinds that the shadow storage knows, which are constants of its module."""
    tree = ast.parse((ROOT / "nbd_provider/store/room.py").read_text())
    values = [node.value for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {
        value.value
        for value in values
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and "-" in value.value
    }


def test_every_event_of_the_code_has_a_number_and_no_number_is_without_event() -> None:
    trees = [ast.parse(path.read_text()) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    found = {name for tree in trees for name in recorded(tree)}
    assert len(found) > 25
    policies = {"delete-oldest", "refuse-new", "protect-copies"}
    found |= of_the_storage() - policies
    assert found == set(EVENTS)


def test_numbers_are_given_once() -> None:
    numbers = [kind.number for kind in EVENTS.values()]
    assert len(set(numbers)) == len(numbers) and min(numbers) >= 100
    assert len({message_id(name) for name in EVENTS}) == len(EVENTS)
    assert all(EVENT.fullmatch(name) for name in EVENTS)


def test_numbers_do_not_change() -> None:
    assert kind_of("set-created").number == 100 and kind_of("snapshot-lost").number == 111
    assert kind_of("copy-lost").number == 200 and kind_of("volume-added").number == 300
    assert message_id("snapshot-lost") == "63dbd52ad3185b29b65e7876f1e026f3"
    assert kind_of("invented-elsewhere").number == 0
    assert (kind_of("snapshot-lost").priority, kind_of("set-created").priority) == (ERROR, INFO)


def test_the_page_is_made_from_the_events() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs/generate_events.py", "--check"], timeout=60, check=False)
    assert done.returncode == 0, "run: python docs/generate_events.py"


def test_windows_numbers_are_written_as_source_and_number() -> None:
    for name, kind in EVENTS.items():
        for each in filter(None, kind.windows.split(", ")):
            assert re.fullmatch(r"(VSS|volsnap) [0-9]+", each), f"{name}: {each}"
