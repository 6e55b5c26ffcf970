"""How a path and the identity of the component that stands for it correspond.

``/srv/shop/orders.db`` is the component ``srv\\shop\\orders.db``: logical path ``srv\\shop``, name ``orders.db``. So
the name is unique on the machine whichever instance of a writer protects the path, a restore finds the place when the
application is gone, and another writer that knows the path can declare a dependency on its component.
"""

from __future__ import annotations

import os

from shadowset.vss.codes import Code, VssError

UNUSABLE = frozenset("\\*?[")


def component_identity(path: str) -> tuple[str, str]:
    """Logical path and name of the component of a file or directory. Links are followed, as the applications do.

    Errors: E_INVALIDARG for a path that file specifications cannot express.
    """
    real = os.path.realpath(path)
    if UNUSABLE & set(real):
        raise VssError(Code.E_INVALIDARG, f"{real} cannot be a component: rename it without any of \\ * ? [")
    directory, name = os.path.split(real)
    return directory.strip("/").replace("/", "\\"), name


def component_path(logical_path: str, name: str) -> str:
    """The path of a component."""
    return os.path.join("/", logical_path.replace("\\", "/"), name)
