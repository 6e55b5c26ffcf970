"""The variables of a set for scripts, by the names of the published page and of the published sample. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from shadowset.requester.windows.words import braced
from shadowset.vss.requester_protocol import SnapshotProperties

PREFIXES = ("VSHADOW_", "SHADOW_")


def variables(set_id: str, copies: Sequence[SnapshotProperties]) -> dict[str, str]:
    """``…SET_ID``, and from 1 on in the order of the volumes ``…ID_n`` and ``…DEVICE_n``, under both prefixes."""
    named = {"SET_ID": braced(set_id)}
    for number, copy in enumerate(copies, start=1):
        named[f"ID_{number}"] = braced(copy.snapshot_id)
        named[f"DEVICE_{number}"] = copy.device_object
    return {f"{prefix}{name}": value for prefix in PREFIXES for name, value in named.items()}


def shell_script(named: Mapping[str, str]) -> str:
    """Lines to be read into a shell with ``.``, in place of the CMD file that Windows's vshadow writes."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in named.items()]
    return "\n".join(["# Made by vshadow; read it with: . FILE", *lines, ""])
