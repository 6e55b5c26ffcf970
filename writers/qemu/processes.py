"""QEMU's processes on this host, and what their command lines tell: name, monitor, agent."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

from shadowset.writers.qemu.settings import Fallback, GuestSettings

LOG = logging.getLogger("shadowset.writer.qemu")
FIRST_OF_PEOPLE = 1000  # whose processes may only look like a guest, and could hinder every backup
AGENT_PORT = "org.qemu.guest_agent.0"
LIBVIRT_MONITOR = "charmonitor"


def discover(
    without_agent: Fallback = "refuse", proc: str = "/proc", known: Collection[str] = ()
) -> list[GuestSettings]:
    """The guests that run here without libvirt; those that cannot be reached are left out with a line in the log.

    ``known`` are the names of libvirt's guests.
    """
    found: dict[str, GuestSettings] = {}
    for pid in sorted((name for name in os.listdir(proc) if name.isdecimal()), key=int):
        try:
            owner = os.stat(f"{proc}/{pid}").st_uid
            words = Path(f"{proc}/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
        except OSError:
            continue  # it has ended
        if words and os.path.basename(words[0]).startswith(("qemu-system-", "kvm", "qemu-kvm")):
            settings = read_command_line(words, without_agent)
            if runs_for_libvirt(words) and guest_name(words) in known:
                continue
            if owner >= FIRST_OF_PEOPLE:
                LOG.warning("QEMU's process %s is user %d's: it is left out unless it is configured", pid, owner)
            elif isinstance(settings, str):
                LOG.warning("QEMU's process %s %s: it is left out", pid, settings)
            elif settings.name in found:
                LOG.warning("QEMU's process %s is a second guest named %s: it is left out", pid, settings.name)
            else:
                found[settings.name] = settings
    return list(found.values())


def read_command_line(words: list[str], without_agent: Fallback = "refuse") -> GuestSettings | str:
    """A guest by QEMU's command line, or what it lacks in words."""
    options = list(pairwise(words))
    sockets = {}
    monitor = agent = ""
    if runs_for_libvirt(words):
        return f"(guest {guest_name(words)!r}) is libvirt's, which does not tell of it"
    for option, value in options:
        parts = _parts(value)
        match option.lstrip("-"):
            case "chardev" if parts.get("", "") == "socket":
                sockets[parts.get("id", "")] = parts.get("path", "")
            case "qmp" | "qmp-pretty" if value.startswith("unix:"):
                monitor = monitor or parts[""].removeprefix("unix:")
    for option, value in options:
        parts = _parts(value)
        if option.lstrip("-") == "mon" and parts.get("mode") == "control":
            monitor = monitor or sockets.get(parts.get("chardev", parts.get("", "")), "")
        if option.lstrip("-") == "device" and parts.get("name") == AGENT_PORT:
            agent = sockets.get(parts.get("chardev", ""), "")
    settings = GuestSettings(name=guest_name(words), qmp=monitor, agent=agent, without_agent=without_agent)
    return f"(guest {settings.name!r}) {problem}" if (problem := settings.problem()) else settings


def guest_name(words: list[str]) -> str:
    """The guest's name by QEMU's command line; empty when it was given none."""
    for option, value in pairwise(words):
        if option.lstrip("-") == "name":
            parts = _parts(value)
            return parts.get("guest", parts.get("", ""))
    return ""


def runs_for_libvirt(words: list[str]) -> bool:
    """Whether libvirt started this QEMU: it opens the monitor's socket itself, under a name of its own."""
    chardevs = (_parts(value) for option, value in pairwise(words) if option == "-chardev")
    return any(parts.get("id") == LIBVIRT_MONITOR for parts in chardevs)


def _parts(value: str) -> dict[str, str]:
    """``socket,id=x,path=/y`` by names; the word without a name is "". Two commas stand for one."""
    parts = {}
    for word in value.replace(",,", "\0").split(","):
        key, equals, text = word.partition("=")
        parts[key if equals else ""] = (text if equals else key).replace("\0", ",")
    return parts
