"""Providers that are killed beneath mounted file systems: applications wait, and nothing is wrong afterwards."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(0)]


@pytest.mark.parametrize("rounds", ["1", pytest.param("25", marks=pytest.mark.long)])
def test_sigkill_and_handover_under_fio_verify(prove: Any, rounds: str) -> None:
    prove("kill.py", rounds, modules=("nbd",))


@pytest.mark.long
def test_the_coordinator_mends_it_all_by_itself(prove: Any) -> None:
    prove("kill.py", "10", "coordinator", modules=("nbd", "loop", "fuse"))
