"""How a guest is reached: what its host tells of it, its agent inside, its monitor outside. Two ways do it: the sockets
of a QEMU that somebody started, and libvirt, which keeps these sockets for itself."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.qemu.disks import Disk


class Seen(msgspec.Struct, frozen=True):
    """A guest as its host tells it; ``state`` is "off" when no QEMU runs for it.

    What libvirt alone tells: ``agent``, the socket of the agent's channel; ``files`` that belong to the guest beside
    its disks; its ``definition``, where passwords are ``hidden``; whether there is no such guest (``gone``).
    """

    state: str
    disks: list[Disk] = []
    agent: str = ""
    files: list[str] = []
    definition: str = ""
    hidden: bool = False
    gone: bool = False


class Inside(Protocol):
    """A guest's agent, asked. Errors of all: VssError."""

    def frozen(self) -> bool:
        """Whether the guest's file systems are frozen, as the agent knows."""

    def freeze(self, mount_points: list[str]) -> int:
        """Freezes these, or all when none is named; how many were."""

    def thaw(self) -> int:
        """Thaws all; how many were frozen."""


class Outside(Protocol):
    """A guest's processors, seen to from without. Errors of all: VssError."""

    def state(self) -> str:
        """``running``, ``paused`` and so on."""

    def stop(self) -> None:
        """The processors stand still from its return on."""

    def go_on(self) -> None:
        """They run again."""


class Reach(Protocol):
    """One way to one guest. Every wait ends at ``end`` (time.monotonic). Errors of all but ``interrupt``: VssError."""

    def look(self, seconds: float) -> Seen:
        """State and disks."""

    def agent(self, end: float) -> AbstractContextManager[Inside]:
        """Refuses when the guest has no channel for an agent."""

    def monitor(self, end: float) -> AbstractContextManager[Outside]:
        """Refuses when the guest does not run."""

    def interrupt(self) -> None:
        """Ends what another thread waits for."""


def refused(guest: str, what: str, advice: str) -> VssError:
    """A guest that is not as it must be; trying again does not help."""
    return VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"the guest {guest} {what}; {advice}")
