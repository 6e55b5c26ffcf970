"""One guest over the cut: frozen from within by its agent, or paused from without, or taken as it is.

A guest's file systems stay frozen until somebody thaws them: neither the guest nor QEMU ends that by itself. A request
that was written into the agent's channel is carried out whenever the agent wakes, also when nobody waits for it any
more. So a guest counts as frozen from before the request on, until its agent itself has said that it is thawed.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Literal

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.qemu.domains import LibvirtReach
from shadowset.writers.qemu.reach import Reach, Seen, refused
from shadowset.writers.qemu.settings import GuestSettings
from shadowset.writers.qemu.sockets import SocketReach

LOG = logging.getLogger("shadowset.writer.qemu")
LOOK_SECONDS = 5.0
Method = Literal["agent", "pause", "crash-consistent", "stopped", "off"]


def reach_of(settings: GuestSettings) -> Reach:
    """The way to a guest."""
    return LibvirtReach(settings) if settings.libvirt else SocketReach(settings)


def look(settings: GuestSettings, seconds: float = LOOK_SECONDS) -> Seen:
    """State and disks. Errors: VssError when QEMU is there, but does not tell."""
    return reach_of(settings).look(seconds)


class HeldGuest:
    """A guest between prepare-snapshot and post-snapshot.

    One thread works with it at a time (``_lock``); ``give_up`` comes from any, and ends what that thread waits for.
    """

    def __init__(self, settings: GuestSettings) -> None:
        self.settings = settings
        self.seen = Seen("off")
        self.method: Method = "off"
        self.why = ""  # the copy is less than frozen
        self.frozen_count = 0
        self.frozen_ms = 0.0
        self._held = False
        self._given_up = False
        self._lock = threading.Lock()
        self._reach = reach_of(settings)

    def prepare(self, seconds: float) -> None:
        """Sees whether it can be frozen. Errors: VssError when it cannot, and nothing less is allowed."""
        end = time.monotonic() + seconds
        self.seen = self._reach.look(seconds)
        if self.seen.agent:
            self.settings = msgspec.structs.replace(self.settings, agent=self.seen.agent)
        if self.seen.state == "off":
            return
        if self.seen.state != "running":
            self.method, self.why = "stopped", f"it is {self.seen.state}, so its agent cannot be asked"
            return
        self.method = "agent"
        try:
            with self._reach.agent(end) as agent:
                if agent.frozen():
                    raise self._refused("is frozen by somebody else", "thaw it, or wait for the other backup")
        except VssError as error:
            self._fall_back(error)

    def _refused(self, what: str, advice: str) -> VssError:
        return refused(self.settings.name, what, advice)

    def _fall_back(self, error: VssError) -> None:
        """Errors: ``error``, with the way out, when nothing less than a frozen guest is allowed."""
        if self.settings.without_agent == "refuse":
            way_out = 'or set without_agent = "crash-consistent" (or "pause") for it'
            raise VssError(error.code, f"{error.message}, {way_out}", error.application_code) from error
        self.method, self.why = self.settings.without_agent, error.message
        LOG.warning("%s: the copy of the guest %s is crash-consistent", error.message, self.settings.name)

    def freeze(self, seconds: float) -> None:
        """From its return on the guest writes nothing, if it can be frozen at all. Errors: VssError."""
        end = time.monotonic() + min(seconds, self.settings.seconds)
        with self._lock:
            if self._given_up:
                raise self._refused("was given up before it was frozen", "try again")
            self._require_same()
            began = time.monotonic()
            if self.method == "agent":
                try:
                    self._freeze_inside(end)
                except VssError as error:
                    self._take_back(error)
            if self.method == "pause":
                self._held = True
                with self._reach.monitor(max(end, time.monotonic() + LOOK_SECONDS)) as monitor:
                    monitor.stop()
            self.frozen_ms = (time.monotonic() - began) * 1000

    def _take_back(self, error: VssError) -> None:
        """After a failed freeze. Errors: ``error`` unless the guest is certainly thawed and less is allowed."""
        try:
            self._thaw_inside(time.monotonic() + LOOK_SECONDS)
        except VssError as another:
            LOG.warning("after a failed freeze: %s", another.message)
            raise error from another
        self._fall_back(error)

    def _require_same(self) -> None:
        """A guest that was off is off still, or it writes now."""
        if self.method == "off" and look(self.settings).state != "off":
            message = f"the guest {self.settings.name} was started amid the creation; try again"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def _freeze_inside(self, end: float) -> None:
        self._held = True
        with self._reach.agent(end) as agent:
            self.frozen_count = agent.freeze(self.settings.mount_points)
        if not self.frozen_count:
            raise self._refused("has no file system that can be frozen", "look at what it mounts")

    def thaw(self, seconds: float) -> None:
        """Lets the guest go on. Errors: VssError when it cannot be told to, or was not frozen until now."""
        end = time.monotonic() + seconds
        with self._lock:
            if self._held and self.method == "pause":
                self._go_on(end)
            elif self._held:
                thawed = self._thaw_inside(end)
                if thawed < self.frozen_count:
                    message = f"the guest {self.settings.name} was thawed before the cut was over"
                    raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, f"{message}; see who else thaws it, and try again")

    def _go_on(self, end: float) -> None:
        with self._reach.monitor(end) as monitor:
            lasted = monitor.state() == "paused"
            if lasted:
                monitor.go_on()
        self._held = False
        if not lasted:
            message = f"the guest {self.settings.name} was not paused until the cut was over; try again"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def _thaw_inside(self, end: float) -> int:
        """Number of file systems that were thawed. Errors: VssError when the agent does not say that all are."""
        with self._reach.agent(end) as agent:
            count = agent.thaw()
            if agent.frozen():
                raise self._refused("is still frozen", "thaw it by hand")
        self._held = False
        return count

    @property
    def held(self) -> bool:
        """Whether it may be frozen or paused by us now."""
        return self._held

    def give_up(self) -> None:
        """Ends what another thread waits for; a freeze that has not begun will not."""
        self._given_up = True
        self._reach.interrupt()

    def facts(self) -> dict[str, object]:
        """What goes into the backup's metadata."""
        facts: dict[str, object] = {"guest": self.settings.name, "state": self.seen.state, "method": self.method}
        if self.frozen_count:
            facts["frozen_file_systems"] = self.frozen_count
        if self.why:
            facts["why"] = self.why
        if self.seen.definition:
            facts |= {"definition": self.seen.definition, "passwords_left_out": self.seen.hidden}
        return facts | {"disks": msgspec.to_builtins(self.seen.disks)}


def thaw_lost(settings: GuestSettings, paused: bool, seconds: float) -> None:
    """Thaws a guest whose writer is lost; one that is not frozen stays as it is. Errors: VssError."""
    end, reach = time.monotonic() + seconds, reach_of(settings)
    if paused:
        with reach.monitor(end) as monitor:
            if monitor.state() == "paused":
                monitor.go_on()
        return
    with reach.agent(end) as agent:
        if agent.frozen():
            agent.thaw()
            if agent.frozen():
                raise refused(settings.name, "is still frozen", "thaw it by hand")
