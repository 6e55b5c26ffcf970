"""SHA-1 and SHA-256 without OpenSSL, which ``hashlib`` brings along: six megabytes more to lock in memory."""

from __future__ import annotations

import importlib
from typing import Any


def _plain(name: str, *modules: str) -> Any:
    """CPython's own function where this build has it; its module has another name in each few versions."""
    for module in (*modules, "hashlib"):
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:
            continue
    raise ImportError(name)


sha1 = _plain("sha1", "_sha1")
sha256 = _plain("sha256", "_sha256", "_sha2")
