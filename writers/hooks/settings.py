"""The writer's configuration: which scripts, by whose rules, and whose files they protect."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import msgspec

from shadowset.writers.server_settings import Entry, WriterSettings

Kind = Literal["qemu", "vmware", "azure", "google", "snapper", "command"]
USUAL_PLACES: dict[str, str] = {
    "qemu": "/etc/qemu/fsfreeze-hook.d",
    "vmware": "/etc/vmware-tools/backupScripts.d",
    "azure": "/etc/azure/VMSnapshotScriptPluginConfig.json",
    "google": "/etc/google/snapshots",
    "snapper": "/usr/lib/snapper/plugins",
}
PRE_FREEZE, POST_THAW = "/usr/sbin/pre-freeze-script", "/usr/sbin/post-thaw-script"  # VMware Tools' older place


class Hook(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One set of scripts. ``files`` are the directories of the application that they freeze; without any, the scripts
    run for every shadow copy set. ``required``: a failed freeze vetoes the set; else it is recorded as a copy that is
    no more than crash-consistent."""

    kind: Kind
    name: str = ""
    path: str = ""
    freeze: list[str] = []
    thaw: list[str] = []
    files: list[str] = []
    required: bool = True
    seconds: float = 30.0

    @property
    def title(self) -> str:
        """The name of its component."""
        return self.name or self.kind

    @property
    def place(self) -> str:
        """The directory or file of the scripts; empty for commands."""
        return self.path or USUAL_PLACES.get(self.kind, "")

    def problem(self) -> str:
        """What is wrong; empty when nothing is."""
        if self.kind == "command" and not (self.freeze and self.thaw):
            return "is of kind command and needs both freeze and thaw"
        if self.kind != "command" and (self.freeze or self.thaw):
            return f"is of kind {self.kind}, whose commands follow from path; leave freeze and thaw away"
        if self.kind == "snapper" and len(self.files) != 1:
            return "is of kind snapper and needs one directory in files: the subvolume that its plug-ins are told"
        if "/" in self.title or "\\" in self.title:
            return f"has the name {self.title}; give it one without / and \\"
        relative = [path for path in (self.place, *self.files) if path and not os.path.isabs(path)]
        if relative:
            return f"names {relative[0]}; give an absolute path"
        return "" if self.seconds > 0 else "has no time to run; give seconds above 0"


class Settings(WriterSettings, kw_only=True):
    """The whole file."""

    hook: list[Hook] = []

    def entries(self) -> Sequence[Entry]:
        return self.hook


def discover() -> list[Hook]:
    """Hooks that are found in their usual places; snapper's plug-ins have to be named with their subvolume."""
    kinds: tuple[Kind, ...] = ("qemu", "vmware", "azure", "google")
    older = {"vmware": (PRE_FREEZE, POST_THAW)}
    places = {kind: (USUAL_PLACES[kind], *older.get(kind, ())) for kind in kinds}
    return [Hook(kind=kind) for kind in kinds if any(map(os.path.exists, places[kind]))]
