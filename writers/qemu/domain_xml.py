"""What libvirt's description of a domain tells: its disks, its agent's channel, what else belongs to it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree.ElementTree import register_namespace, tostring

from defusedxml.ElementTree import fromstring

from shadowset.writers.qemu.disks import Disk, Kind, VolumeOf, locate
from shadowset.writers.qemu.processes import AGENT_PORT

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

PoolPath = Callable[[str, str], str]
WITH_PASSWORDS = ("vnc", "spice")
PASSWORD_BYTES = 6  # VNC's passwords end after eight characters
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"


class Description:
    """One domain. ``pool_path`` tells the path of a storage pool's volume, or "" when nobody knows it."""

    def __init__(self, xml: str, volume_of: VolumeOf, pool_path: PoolPath) -> None:
        self._domain: Element = fromstring(xml)
        self._volume_of, self._pool_path = volume_of, pool_path

    def disks(self) -> list[Disk]:
        """What the guest has to write to or to read from."""
        disks = [self._disk(disk) for disk in self._domain.iterfind("./devices/disk") if _has_medium(disk)]
        passed = self._domain.iterfind("./devices/hostdev[@type='scsi']")
        return disks + [Disk("hostdev", "invisible", _address(device)) for device in passed]

    def _disk(self, disk: Element) -> Disk:
        kind, place = self._locate(disk)
        target, driver = disk.find("target"), disk.find("driver")
        return Disk(
            "disk" if target is None else target.get("dev", "disk"), kind, place,
            "" if driver is None else driver.get("type", ""),
            disk.find("readonly") is not None or disk.get("device") == "cdrom",
            tuple(self._beneath(disk)),
        )  # fmt: skip

    def _beneath(self, disk: Element) -> list[str]:
        found = []
        below = disk.find("backingStore")
        while below is not None:
            kind, place = self._locate(below)
            if kind == "file":
                found.append(place)
            below = below.find("backingStore")
        return found

    def _locate(self, node: Element) -> tuple[Kind, str]:
        source = node.find("source")
        if source is None:
            return "invisible", node.get("type", "nothing")
        if node.get("type") == "volume":
            pool, volume = source.get("pool", ""), source.get("volume", "")
            return locate(self._pool_path(pool, volume) or f"volume {volume} of pool {pool}", self._volume_of)
        if path := source.get("file") or source.get("dev") or source.get("path"):
            return locate(path, self._volume_of)
        host = source.find("host")
        if source.get("protocol") == "nbd" and host is not None and host.get("socket"):
            return locate(f"nbd:unix:{host.get('socket')}", self._volume_of)
        words = [source.get("protocol", node.get("type", "")), source.get("name", "")]
        return "invisible", ":".join(word for word in words if word)

    def files(self) -> list[str]:
        """What belongs to it beside its disks: the variables of its firmware."""
        return [path.text for path in self._domain.iterfind("./os/nvram") if path.text and os.path.isabs(path.text)]

    def agent(self) -> str:
        """The socket of its agent's channel while it runs; empty when there is none."""
        for channel in self._domain.iterfind("./devices/channel[@type='unix']"):
            target, source = channel.find("target"), channel.find("source")
            if target is not None and target.get("name") == AGENT_PORT and source is not None:
                return source.get("path", "")
        return ""


def _has_medium(disk: Element) -> bool:
    return disk.find("source") is not None or disk.get("type") not in ("file", "block")


def _address(device: Element) -> str:
    adapter = device.find("./source/adapter")
    return f"the host's {'device' if adapter is None else adapter.get('name')}, passed through"


def locked(xml: str) -> str:
    """The definition with passwords that nobody knows, where libvirt had left passwords out: without any, everybody
    who reaches the guest's display may use it."""
    register_namespace("qemu", QEMU_NAMESPACE)
    domain = fromstring(xml)
    for display in domain.iterfind("./devices/graphics"):
        if display.get("type") in WITH_PASSWORDS:
            display.set("passwd", secrets.token_urlsafe(PASSWORD_BYTES))
    return tostring(domain, encoding="unicode")
