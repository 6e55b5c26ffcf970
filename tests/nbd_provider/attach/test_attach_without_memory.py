"""What the command says when there is no memory for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider.attach import genetlink, main, state

pytestmark = pytest.mark.host


def _raise(error: BaseException) -> Any:
    def call(*_: object) -> None:
        raise error

    return call


def test_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(state, "load", _raise(MemoryError()))
    assert main.main(["detach", "data", "--runtime", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"shadowset-attach: volume data: {main.NO_MEMORY}\n"


def test_it_does_not_take_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(genetlink, "family", _raise(OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))))
    assert main.main(["attach", "data", "--nbd", str(tmp_path / "nbd"), "--runtime", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert "cannot ask the kernel about nbd: No buffer space available" in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"name": "data"}', '{"name": 1, "via": "nbd"}'])
def test_state_that_makes_no_sense_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "attach.json").write_text(content)
    assert state.load(str(tmp_path)) is None


def test_state_comes_back(tmp_path: Path) -> None:
    made = state.Attachment("data", "nbd", "/run/nbd", "data", "boot", "/dev/shadowset/data", "/dev/nbd3", index=3)
    state.save(str(tmp_path), made)
    found = state.load(str(tmp_path))
    assert found is not None and vars(found) == vars(made)
