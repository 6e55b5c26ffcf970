"""The guest kernel as a fixture; without it the tests of this lane are skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_HERE = Path(__file__).parent


def _load() -> ModuleType:
    import sys

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
    return module


@pytest.fixture(scope="session")
def guests() -> Path:
    """Where the scripts that run inside lie."""
    return _HERE / "guest"
