"""Units, pages and the README say what is true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shadowset.requester.cli import parser

ROOT = Path(__file__).resolve().parents[2]


def test_protocol_page_is_made_from_the_messages() -> None:
    command = [sys.executable, ROOT / "docs" / "generate_writer_protocol.py", "--check"]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode == 0, "run: python docs/generate_writer_protocol.py"


@pytest.mark.parametrize("unit", sorted(path.name for path in (ROOT / "systemd").glob("*.service")))
def test_units_are_understood(tmp_path: Path, unit: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not installed: systemd-analyze")
    text = (ROOT / "systemd" / unit).read_text().replace("/opt/shadowset/bin", str(Path(sys.executable).parent))
    instance = unit.replace("@.", "@x.")
    (tmp_path / instance).write_text(re.sub(r"^(Wants|After|Requires|Documentation)=.*$", "", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / instance],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if instance in line]
    assert not complaints, complaints


def test_what_a_writer_started_outlives_its_unit() -> None:
    """Its guard, which thaws in its place, and the server that it started after a restore."""
    units = {
        path.stem.removeprefix("shadowset-writer-"): path for path in (ROOT / "systemd").glob("*-writer-*.service")
    }
    starters = []
    for name, unit in units.items():
        code = "".join(path.read_text() for path in (ROOT / "writers" / name.strip("@")).glob("*.py"))
        if "start_command" in code or "Guard(" in code:
            starters.append(name)
            assert "\nKillMode=process\n" in unit.read_text(), unit
    assert len(starters) >= 9


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "systemd").glob("*.md")]
    pages += list((ROOT / "benchmarks").glob("*.md"))
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} points to {target}"


def test_the_example_writer_of_the_readme_is_python() -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL):
        compile(block, "README.md", "exec")


def test_the_commands_of_the_readme_exist() -> None:
    top = parser()
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    shadowset ([a-z][^#\n&]*)", text, flags=re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        top.parse_args(command.split())
