"""Every setting with its value and where it comes from."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from shadowset.daemon import settings as module
from shadowset.daemon.limits import Limits
from shadowset.daemon.settings import DEFAULT, settings
from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths

GUID = "0b6a3a5e-6a52-4d5c-9f3c-5f3b1f6d7a12"
OTHER = "1b6a3a5e-6a52-4d5c-9f3c-5f3b1f6d7a12"


def test_each_value_says_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "shadowsetd.d").mkdir()
    (tmp_path / "shadowsetd.toml").write_text(
        f'[limit]\nhold_ms = 1\nthaw_ms = 2\n[revert]\nblocked-by = ["{GUID}"]\n[writer-window]\n"{GUID}" = 7\n'
    )
    (tmp_path / "shadowsetd.d/a.toml").write_text(f'[limit]\nhold_ms = 3\n[revert]\nblocked-by = ["{OTHER}"]\n')
    paths = Paths(config=str(tmp_path))
    found = {each.name: each for each in settings(paths, {"SHADOWSET_CONFIG_DIR": str(tmp_path)})}
    drop_in = str(tmp_path / "shadowsetd.d/a.toml")
    assert (found["limit.hold_ms"].value, found["limit.hold_ms"].source) == (3, drop_in)
    assert found["limit.thaw_ms"].source == str(tmp_path / "shadowsetd.toml")
    assert (found["limit.sessions"].value, found["limit.sessions"].source) == (Limits().sessions, DEFAULT)
    assert found["revert.blocked-by"].value == [GUID, OTHER]
    assert found[f"writer-window.{GUID}"].value == 7
    assert found["directory.config"].source == "environment SHADOWSET_CONFIG_DIR"
    assert found["directory.state"].source == DEFAULT


def test_all_limits_are_shown(tmp_path: Path) -> None:
    shown = {each.name for each in settings(Paths(config=str(tmp_path)), {})}
    assert {f"limit.{each.name}" for each in fields(Limits) if each.name != "writer_windows"} <= shown


def test_the_program_prints_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHADOWSET_CONFIG_DIR", str(tmp_path))
    (tmp_path / "shadowsetd.toml").write_text("[limit]\nhold_ms = 1\n")
    assert module.main(["--changed", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in told] == ["directory.config", "limit.hold_ms"] and told[1]["default"] == 10_000
    assert module.main([]) == 0
    assert "limit.hold_ms              1" in capsys.readouterr().out
    (tmp_path / "shadowsetd.toml").write_text("[limit]\nholdms = 1\n")
    assert module.main([]) == 1
    assert "shadowsetd.toml: key 'limit.holdms'" in capsys.readouterr().err


def test_rules_of_access_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "access.d").mkdir()
    (tmp_path / "access.d/x.toml").write_text("[[rule]]\naccess = 'both'\n")
    with pytest.raises(VssError, match=r"x\.toml: rule 1"):
        settings(Paths(config=str(tmp_path)), {})
