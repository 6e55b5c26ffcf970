"""The page of what is proved follows from the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_row_has_tests_or_a_reason_and_the_page_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "docs" / "generate_vss_coverage.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"run: python docs/generate_vss_coverage.py\n{done.stdout}{done.stderr}"
