"""A guest by the sockets of its QEMU: its monitor's and its agent's."""

from __future__ import annotations

import os
import time

from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths
from shadowset.writers.qemu.disks import disks_of, shadowset_volume
from shadowset.writers.qemu.reach import Seen, refused
from shadowset.writers.qemu.settings import GuestSettings
from shadowset.writers.qemu.wire import Agent, Lines, Monitor


class SocketReach:
    """See ``Reach``."""

    def __init__(self, settings: GuestSettings) -> None:
        self.settings = settings
        self._line: Lines | None = None

    def look(self, seconds: float) -> Seen:
        if not os.path.exists(self.settings.qmp):
            return Seen("off")
        try:
            monitor = self.monitor(time.monotonic() + seconds)
        except VssError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                return Seen("off")  # the socket of a QEMU that has ended
            raise
        with monitor:
            return Seen(monitor.state(), disks_of(monitor.ask("query-block"), volume_behind))

    def agent(self, end: float) -> Agent:
        if not self.settings.agent:
            raise refused(self.settings.name, "has no agent channel", "give its agent socket in the configuration")
        return Agent(self.settings.agent, self.settings.name, end, self._opened)

    def monitor(self, end: float) -> Monitor:
        return Monitor(self.settings.qmp, self.settings.name, end, self._opened)

    def _opened(self, line: Lines) -> None:
        self._line = line

    def interrupt(self) -> None:
        line = self._line
        if line is not None:
            line.interrupt()


def volume_behind(place: str) -> str:
    """The volume of this host's Shadowset behind a device or socket; empty when there is none."""
    return shadowset_volume(place, f"{Paths.from_environment(os.environ).runtime}/volumes")
