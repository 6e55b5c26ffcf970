"""Whether the process between a volume's loop device and its provider still runs."""

from __future__ import annotations

import msgspec

from shadowset.vss.processes import start_time


class Bridge(msgspec.Struct):
    """What the attach command tells in ``attach.json`` of its bridge; no ``pid`` where the kernel does its work."""

    pid: int = 0
    started: int = 0


def bridge_lost(directory: str) -> bool:
    """The bridge of the volume whose run-time directory this is has ended; whoever uses the device gets I/O errors."""
    try:
        with open(f"{directory}/attach.json", "rb") as file:
            bridge = msgspec.json.decode(file.read(), type=Bridge)
    except (OSError, msgspec.DecodeError):
        return False
    return bridge.pid > 0 and bridge.started > 0 and start_time(bridge.pid) != bridge.started
