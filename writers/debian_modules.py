"""Modules that come with the distribution, made for its libraries, also where a virtual environment runs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from shadowset.vss.codes import Code, VssError

DEBIAN = "/usr/lib/python3/dist-packages"


def load(module: str, title: str, package: str) -> Any:
    """The module: the environment's own, or Debian's. Errors: VSS_E_NOT_SUPPORTED naming the Debian package."""
    for path in ("", DEBIAN):
        if path:
            sys.path.append(path)
        try:
            return importlib.import_module(module)
        except ImportError as error:
            missing = error
        finally:
            if path:
                sys.path.remove(path)
    message = f"{title}'s module is not there ({missing}); install it (Debian: {package})"
    raise VssError(Code.VSS_E_NOT_SUPPORTED, message)
