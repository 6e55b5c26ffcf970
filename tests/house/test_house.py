"""The house itself: what the wheel holds, and which room may import which."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("vss", "daemon", "nbd_provider", "btrfs_provider", "image_provider", "fuse_mount", "writers", "requester")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "vss": (),
    "daemon": ("shadowset.vss",),
    "nbd_provider": ("shadowset.vss",),
    "btrfs_provider": ("shadowset.vss",),
    "image_provider": ("shadowset.vss",),
    "fuse_mount": ("shadowset.vss", "shadowset.nbd_provider.store"),
    "writers": ("shadowset.vss",),
    "requester": ("shadowset.vss",),
}
PURE_ROOM_MAY_NOT = ("asyncio", "os", "socket", "subprocess", "threading", "sqlite3", "time", "pathlib", "selectors")


def modules() -> list[tuple[str, Path]]:
    found = [(room, path) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert found
    return found


def imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which room it comes from"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    allowed = (f"shadowset.{room}", *MAY_IMPORT[room])
    for owner, path in modules():
        if owner != room:
            continue
        for name in imports(path):
            if name.startswith("shadowset.") and name != "shadowset.__version__":
                good = any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)
                assert good, f"{path.relative_to(ROOT)} imports {name}"


def test_what_commands_use_imports_no_command() -> None:
    """Below ``requester`` the command lines lie above all else: ``cli`` itself, and ``windows`` beside it."""
    for room, path in modules():
        if room == "requester" and path.relative_to(ROOT / room).parts[0] not in ("cli", "windows"):
            for name in imports(path):
                assert not name.startswith("shadowset.requester.cli."), f"{path.relative_to(ROOT)} imports {name}"


def test_the_vocabulary_is_pure() -> None:
    for room, path in modules():
        if room == "vss":
            for name in imports(path):
                assert name.split(".")[0] not in PURE_ROOM_MAY_NOT, f"{path.relative_to(ROOT)} imports {name}"


def test_the_source_tree_is_made_of_links_to_the_rooms() -> None:
    for room in ROOMS:
        link = ROOT / "src" / "shadowset" / room
        assert link.is_symlink() and os.readlink(link) == f"../../{room}"


def test_every_program_says_what_it_is_for() -> None:
    bin_directory = Path(sys.executable).parent

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for script in scripts:
        done = subprocess.run(
            [bin_directory / script, "--help"], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{script}: {done.stderr}"
        assert len(done.stdout.splitlines()) > 5 and script in done.stdout
