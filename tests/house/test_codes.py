"""The page of codes: made from the codes, with a meaning for each that the product gives."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shadowset.vss.codes import Code

ROOT = Path(__file__).parents[2]
ROOMS = ("vss", "daemon", "requester", "nbd_provider", "btrfs_provider", "image_provider", "fuse_mount", "writers")


@pytest.mark.vss(142)
def test_every_code_that_is_given_has_its_meaning() -> None:
    page = (ROOT / "docs/codes.md").read_text().partition("## Numbers")[0]
    explained = set(re.findall(r"^\| `(\w+)`", page, re.M))
    given = set()
    for room in ROOMS:
        for module in (ROOT / room).rglob("*.py"):
            given |= set(re.findall(r"\bCode\.([A-Z][A-Z_]*)\b", module.read_text()))
    known = {code.name for code in Code}
    assert given <= known and given - explained == set()


@pytest.mark.vss(142)
def test_the_page_is_made_from_the_codes() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs/generate_codes.py", "--check"], timeout=60, check=False)
    assert done.returncode == 0, "run: python docs/generate_codes.py"
