"""Providers that are killed beneath mounted file systems: applications wait, and nothing is wrong afterwards."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(0)]


def test_sigkill_under_fio_verify(prove: Any, long: bool) -> None:
    prove("kill.py", "25" if long else "2", modules=("nbd",))
