"""The programs that the coordinator starts; an environment variable can name another one, quoted as for a shell."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Commands:
    """Command prefixes; the arguments described in the docs are appended."""

    provider: tuple[str, ...] = (sys.executable, "-m", "shadowset.nbd_provider.main")
    attach: tuple[str, ...] = (sys.executable, "-m", "shadowset.nbd_provider.attach.main")
    fuse: tuple[str, ...] = (sys.executable, "-m", "shadowset.fuse_mount.main")
    layer: tuple[str, ...] = (sys.executable, "-m", "shadowset.nbd_provider.layer")
    export: tuple[str, ...] = (sys.executable, "-m", "shadowset.nbd_provider.export")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Commands:
        """``SHADOWSET_PROVIDER_COMMAND``, ``SHADOWSET_ATTACH_COMMAND``, ``_FUSE_``, ``_LAYER_``, ``_EXPORT_``."""

        def pick(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(shlex.split(environment.get(f"SHADOWSET_{name}_COMMAND", ""))) or default

        return cls(*(pick(each.name.upper(), getattr(cls, each.name)) for each in fields(cls)))
