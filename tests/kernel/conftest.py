"""The guest kernel as a fixture; without it the tests of this lane are skipped."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import shadowset

_HERE = Path(__file__).parent


def _load() -> ModuleType:
    name = "shadowset_tests_uml"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, _HERE / "uml.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def uml() -> ModuleType:
    """The module ``uml.py``."""
    module = _load()
    if lacking := module.missing():
        pytest.skip(f"user-mode-linux cannot run: {lacking}")
    _compile()
    return module


def _compile() -> None:
    """As an installation is; in the guest, whose files are read-only, each process would compile what it imports."""
    package = Path(shadowset.__file__).parent
    rooms = [str(path) for path in package.iterdir() if path.is_dir()]
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package), *rooms, str(_HERE / "guest")], check=True)


@pytest.fixture(scope="session")
def guests() -> Path:
    """Where the scripts that run inside lie."""
    return _HERE / "guest"


@pytest.fixture
def prove(uml: ModuleType, guests: Path, figures: list[str], request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs a guest's script, which ends with ``all is well``, and keeps its figures."""
    patience = 7200 if request.node.get_closest_marker("long") else 300

    def run(script: str, *arguments: str, **options: Any) -> None:
        result = uml.run(guests / script, *arguments, timeout=patience, **options)
        figures.extend(
            f"{script[:-3]}: {line[8:]}" for line in result.output.splitlines() if line.startswith("figure: ")
        )
        assert result.status == 0, result.console
        assert result.output.endswith("all is well")

    return run
