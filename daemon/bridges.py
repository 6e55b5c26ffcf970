"""Whether the process between a volume's loop device and its provider still runs."""

from __future__ import annotations

import os

import msgspec


class Bridge(msgspec.Struct):
    """What the attach command tells in ``attach.json`` of its bridge; no ``pid`` where the kernel does its work."""

    pid: int = 0
    started: int = 0


def bridge_lost(directory: str) -> bool:
    """The bridge of the volume whose run-time directory this is has ended; whoever uses the device gets I/O errors."""
    try:
        with open(f"{directory}/attach.json", "rb") as file:
            bridge = msgspec.json.decode(file.read(), type=Bridge)
        if not (bridge.pid and bridge.started):
            return False
        with open(f"/proc/{bridge.pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return os.path.exists(f"{directory}/attach.json")
    except (OSError, msgspec.DecodeError):
        return False
    return fields[0] in "ZX" or int(fields[19]) != bridge.started
