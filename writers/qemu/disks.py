"""What a guest's disks are on the host: files, volumes that Shadowset serves, or things that no copy of a set shows."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

Kind = Literal["file", "volume", "invisible"]
DEVICES = "/dev/shadowset"


class Disk(msgspec.Struct, frozen=True):
    """``place`` is a file's path, a volume's name, or QEMU's word for the rest; ``backing`` are files beneath it."""

    device: str
    kind: Kind
    place: str
    format: str = ""
    read_only: bool = False
    backing: tuple[str, ...] = ()

    def text(self) -> str:
        """In words."""
        words = {"file": self.place, "volume": f"volume {self.place}", "invisible": f"{self.place}, in no copy"}
        return f"{self.device}: {words[self.kind]}"


VolumeOf = Callable[[str], str]


def disks_of(blocks: list[dict[str, Any]], volume_of: VolumeOf) -> list[Disk]:
    """The disks in an answer to ``query-block``; ``volume_of`` names the volume behind a device or socket, or ""."""
    found = []
    for block in blocks:
        inserted = block.get("inserted")
        if inserted:
            name = block.get("device") or str(block.get("qdev", "")).removesuffix("/virtio-backend") or "disk"
            found.append(_disk(name, inserted, volume_of))
    return found


def _disk(name: str, inserted: dict[str, Any], volume_of: VolumeOf) -> Disk:
    image = inserted.get("image", {})
    kind, place = locate(str(image.get("filename") or inserted.get("file", "")), volume_of)
    backing = []
    below = image.get("backing-image")
    while below:
        under, path = locate(str(below.get("filename", "")), volume_of)
        if under == "file":
            backing.append(path)
        below = below.get("backing-image")
    return Disk(name, kind, place, str(image.get("format", "")), bool(inserted.get("ro")), tuple(backing))


def locate(name: str, volume_of: VolumeOf) -> tuple[Kind, str]:
    """What stands behind one of QEMU's file names."""
    if name.startswith("json:"):
        name = _innermost(name.removeprefix("json:"))
    if socket := nbd_socket(name):
        volume = volume_of(socket)
        return ("volume", volume) if volume else ("invisible", name)
    path = re.sub(r"^(file|host_device):(//)?", "", name)
    if not os.path.isabs(path):
        return "invisible", name
    try:
        device = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        device = path.startswith("/dev/")
    if not device:
        return "file", os.path.realpath(path)
    volume = volume_of(path)
    return ("volume", volume) if volume else ("invisible", path)


def _innermost(text: str) -> str:
    """The file name, or the server's socket, at the bottom of a description."""
    try:
        node = json.loads(text)
    except ValueError:
        return text
    while isinstance(node, dict) and isinstance(node.get("file"), dict):
        node = node["file"]
    if not isinstance(node, dict):
        return text
    server = node.get("server")
    path = server.get("path") if isinstance(server, dict) else node.get("path") if node.get("driver") == "nbd" else None
    return f"nbd:unix:{path}" if path else str(node.get("filename", text))


def nbd_socket(name: str) -> str:
    """The Unix socket of an NBD server; empty for anything else."""
    if name.startswith("nbd:unix:"):
        return name.removeprefix("nbd:unix:").partition(":exportname=")[0]
    if name.startswith("nbd+unix:"):
        return parse_qs(urlsplit(name).query).get("socket", [""])[0]
    return ""


def shadowset_volume(place: str, volumes: str, devices: str = DEVICES) -> str:
    """The name of the volume whose device or NBD socket this is; empty when it is none. ``volumes`` is the directory
    below which each volume has its sockets."""
    if os.path.basename(place) == "nbd.sock" and os.path.dirname(os.path.dirname(place)) == volumes:
        return os.path.basename(os.path.dirname(place))
    real = os.path.realpath(place)
    try:
        names = sorted(os.listdir(devices))
    except OSError:
        return ""
    return next((name for name in names if os.path.realpath(f"{devices}/{name}") == real), "")
