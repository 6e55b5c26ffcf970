"""The page about the Windows commands names all that they take."""

from __future__ import annotations

import re
from pathlib import Path

from shadowset.requester.windows import vssadmin
from shadowset.requester.windows.diskshadow.interpreter import COMMANDS
from shadowset.requester.windows.diskshadow.settings import CONTEXTS
from shadowset.requester.windows.vshadow import options

PAGE = Path(__file__).parents[3] / "docs" / "windows-commands.md"


def part(name: str) -> str:
    """One chapter, with the bars of its tables as they are read."""
    chapter = PAGE.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    return chapter.replace("\\|", "|")


def test_every_verb_and_switch_of_vssadmin_stands_on_the_page() -> None:
    chapter = part("vssadmin")
    for words, command in vssadmin.COMMANDS.items():
        assert f"`vssadmin {' '.join(words)}" in chapter
        missing = [name for name in command.switches if not re.search(rf"/{name}\b", chapter)]
        assert not missing, words


def test_every_command_of_diskshadow_stands_on_the_page() -> None:
    chapter = part("diskshadow")
    beside = {("help",), ("set",)}
    missing = [words for words in COMMANDS if words not in beside and f"`{' '.join(words)}" not in chapter]
    assert not missing
    assert all(words[0] in chapter for words in CONTEXTS)


def test_every_flag_of_vshadow_stands_on_the_page() -> None:
    chapter = part("vshadow")
    beside = {"mask", "rw", "forcerevert", "norevert", "revertsig", "novolcheck"}
    flags = set(options.COMMANDS) | set(options.FLAGS) - beside
    assert not [flag for flag in sorted(flags) if not re.search(rf"`-{flag}[=`\[]", chapter)]
