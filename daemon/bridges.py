"""The processes between a volume's loop device and its provider, as their own files tell of them."""

from __future__ import annotations

import msgspec

from shadowset.vss.processes import start_time


class Bridge(msgspec.Struct):
    """``bridge.json`` of a FUSE bridge: it and its keeper, by number and start; ``restarts``, and why the last.

    Where the kernel does the work there is no such file.
    """

    bridge: int = 0
    bridge_started: int = 0
    keeper: int = 0
    keeper_started: int = 0
    restarts: int = 0
    cause: str = ""

    @property
    def lost(self) -> bool:
        """Both have ended; whoever uses the device gets I/O errors. One of them would start the other one again."""
        pairs = (self.bridge, self.bridge_started), (self.keeper, self.keeper_started)
        return self.bridge > 0 and not any(started and start_time(pid) == started for pid, started in pairs)


def bridge_of(directory: str) -> Bridge:
    """The bridge of the volume whose run-time directory this is; all zeros where there is none."""
    try:
        with open(f"{directory}/bridge.json", "rb") as file:
            return msgspec.json.decode(file.read(), type=Bridge)
    except (OSError, msgspec.DecodeError):
        return Bridge()
