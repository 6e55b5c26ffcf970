"""The programs that the coordinator starts; an environment variable can name another one, quoted as for a shell."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Commands:
    """Command prefixes; the arguments described in the docs are appended."""

    provider: tuple[str, ...] = (sys.executable, "-m", "shadowset.nbd_provider.main")
    attach: tuple[str, ...] = (sys.executable, "-m", "shadowset.nbd_provider.attach.main")
    fuse: tuple[str, ...] = (sys.executable, "-m", "shadowset.fuse_mount.main")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Commands:
        """``SHADOWSET_PROVIDER_COMMAND``, ``SHADOWSET_ATTACH_COMMAND``, ``SHADOWSET_FUSE_COMMAND``."""

        def pick(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(shlex.split(environment.get(f"SHADOWSET_{name}_COMMAND", ""))) or default

        return cls(pick("PROVIDER", cls.provider), pick("ATTACH", cls.attach), pick("FUSE", cls.fuse))
