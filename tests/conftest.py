"""What all tests share."""

from __future__ import annotations

import signal
from typing import Any

import hypothesis
import pytest

# A runner in the background of a shell ignores SIGINT, and programs that it starts would never see Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine any step may take long; what hangs is caught by the time-out of the test.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="only the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run by themselves: ``make test`` stays a matter of minutes."""
    wanted = config.getoption("--long")
    left_out = [item for item in items if bool(item.get_closest_marker("long")) != wanted]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


FIGURES: list[str] = []


@pytest.fixture
def figures() -> list[str]:
    """Lines about what was counted and measured; they are shown at the end of the run, and asserted by nobody."""
    return FIGURES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the figures."""
    if FIGURES:
        terminalreporter.section("figures")
        for line in FIGURES:
            terminalreporter.write_line(line)
