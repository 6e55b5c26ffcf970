"""Every program has a man page, and every option of every command is in it."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("argparse_manpage", reason="not installed: argparse-manpage")
pytest.importorskip("shtab", reason="not installed: shtab")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_manual", ROOT / "docs" / "generate_manual.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("manual")
    subprocess.run([sys.executable, ROOT / "docs" / "generate_manual.py", directory], check=True, timeout=120)
    return directory


def test_asking_for_help_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "docs" / "generate_manual.py", "--help"]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path, capture_output=True)
    assert not list(tmp_path.iterdir())


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from options_of(inner)
        elif action.help is not argparse.SUPPRESS:
            yield from (option for option in action.option_strings if option not in ("-h", "--help"))


def test_every_option_is_in_its_page(generator: ModuleType, manual: Path) -> None:
    names = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
    assert names <= {path.stem for path in (manual / "man8").iterdir()}
    for name, module in generator.programs().items():
        page = (manual / "man8" / f"{name}.8").read_text().replace("\\-", "-")
        parser = generator.parser_of(module)
        if parser is None:
            missing = [
                line for line in generator.help_text(module).split() if line.startswith("/") and line not in page
            ]
        else:
            missing = [option for option in options_of(parser) if option not in page]
        assert not missing, f"{name}: {missing}"
        for heading in ("NAME", "DESCRIPTION", "SEE ALSO"):
            assert f".SH {heading}" in page or f".SH\n{heading}" in page, f"{name}: {heading}"


def test_the_pages_are_sound(manual: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("not installed: groff")
    for page in sorted((manual / "man8").iterdir()):
        done = subprocess.run(
            ["groff", "-K", "utf8", "-man", "-ww", "-z", "-Tutf8", page],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), page.name


def test_shells_take_the_completions(manual: Path) -> None:
    for path in sorted((manual / "completions" / "bash").iterdir()):
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), path.name
    script = (
        f"source {manual}/completions/bash/shadowset; COMP_WORDS=(shadowset vol); COMP_CWORD=1; COMPREPLY=();"
        " $(complete -p shadowset | sed 's/.*-F \\([^ ]*\\).*/\\1/') shadowset vol shadowset; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["volume"], done
