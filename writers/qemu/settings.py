"""The writer's configuration: which guests, how they are reached, and what a copy without their agent is worth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from shadowset.writers.server_settings import Entry, WriterSettings

Fallback = Literal["refuse", "pause", "crash-consistent"]


class GuestSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One guest, by the socket of its monitor (``qmp``), or by the URI of its ``libvirt``.

    ``files`` belong to it beside the disks that it is known to have: its configuration, and its images, so that they
    are known while it is off. ``without_agent`` says what happens when its agent is missing or cannot freeze;
    ``mount_points`` freezes these instead of all its file systems.
    """

    name: str
    qmp: str = ""
    libvirt: str = ""
    agent: str = ""
    files: list[str] = []
    mount_points: list[str] = []
    without_agent: Fallback = "refuse"
    invisible_disks: Literal["allow", "refuse"] = "allow"
    seconds: float = 10.0
    stop_command: list[str] = []
    start_command: list[str] = []

    def problem(self) -> str:
        """What is wrong; empty when nothing is."""
        if not self.name or "/" in self.name or "\\" in self.name:
            return f"has the name {self.name!r}; give it one without / and \\"
        relative = [path for path in (self.qmp, self.agent, *self.files) if path and not os.path.isabs(path)]
        if relative:
            return f"names {relative[0]}; give an absolute path"
        if self.seconds <= 0:
            return "has no time to freeze; give seconds above 0"
        if self.libvirt:
            return "has both libvirt and qmp; take one away" if self.qmp else uri_problem(self.libvirt)
        if not self.qmp:
            return "has no qmp; give the path of the guest's monitor socket, or the libvirt that runs it"
        lacking = "has mount_points, but no agent that could freeze them; add agent"
        return lacking if self.mount_points and not self.agent else ""


def uri_problem(uri: str) -> str:
    """What is wrong with libvirt's URI; empty when nothing is."""
    parts = urlsplit(uri)
    if not parts.scheme or parts.netloc or "+" in parts.scheme:
        return f"has libvirt {uri!r}; give the URI of a libvirt on this host, as qemu:///system"
    return ""


class Settings(WriterSettings, kw_only=True):
    """The whole file. ``libvirt`` is asked for its guests when no guest is named, and defines guests that are restored;
    empty when it shall not be asked."""

    guest: list[GuestSettings] = []
    without_agent: Fallback = "refuse"
    libvirt: str = "qemu:///system"
    command_seconds: int = 120

    def entries(self) -> Sequence[Entry]:
        return self.guest
