"""The harness itself: a test lane that cannot fail proves nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text(text)
        return path

    return write


def test_status_output_and_modules_come_back(uml: Any, script: Any) -> None:
    path = script(
        "import os, sys\nprint(os.uname().release, sys.argv[1], os.path.isdir('/sys/module/nbd'))\nsys.exit(7)"
    )
    result = uml.run(path, "a b", modules=("nbd",), timeout=60)
    assert result.status == 7, result.console
    assert result.output.endswith("a b True")


def test_a_script_that_hangs_is_ended(uml: Any, script: Any) -> None:
    started = time.monotonic()
    result = uml.run(script("import time\nprint('here')\ntime.sleep(1000)"), timeout=10)
    assert result.status is None and "here" in result.output
    assert time.monotonic() - started < 25
