"""A guest by libvirt, whose daemon keeps the sockets of its agent and its monitor.

When the daemon is gone, QEMU goes on and waits for another client at the agent's channel. So a guest that libvirt can
no longer thaw is thawed there, as one that was started without libvirt.
"""

from __future__ import annotations

import glob
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from shadowset.vss.codes import Code, VssError
from shadowset.writers import debian_modules
from shadowset.writers.qemu.calls import Calls
from shadowset.writers.qemu.domain_look import seen_of, state_of
from shadowset.writers.qemu.domain_xml import locked
from shadowset.writers.qemu.reach import Inside, Seen
from shadowset.writers.qemu.settings import Fallback, GuestSettings
from shadowset.writers.qemu.wire import Agent, Lines

LOG = logging.getLogger("shadowset.writer.qemu")
CLOSE_SECONDS = 1.0
REST_SECONDS = 0.2
STARTED = "/run/libvirt/qemu/*.pid"
T = TypeVar("T")


def load() -> Any:
    """libvirt's module, which keeps its words to itself. Errors: VSS_E_NOT_SUPPORTED."""
    module = debian_modules.load("libvirt", "libvirt", "python3-libvirt")
    module.registerErrorHandler(lambda _context, _error: None, None)
    return module


class GoneError(VssError):
    """Nobody answers at libvirt's URI."""


def connect(uri: str) -> Any:
    """A connection. Errors: GoneError, VSS_E_NOT_SUPPORTED."""
    libvirt = load()
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        message = f"libvirt cannot be reached at {uri} ({error}); see that libvirtd or virtqemud runs"
        raise GoneError(Code.VSS_E_WRITERERROR_RETRYABLE, message) from error


class LibvirtReach:
    """See ``Reach``. ``settings.agent`` is the channel's socket, as it was seen before."""

    def __init__(self, settings: GuestSettings) -> None:
        self._settings = settings
        self._channel = settings.agent
        self._calls = Calls(f"libvirt, or the agent of the guest {settings.name},")
        self._line: Lines | None = None

    def look(self, seconds: float) -> Seen:
        with Opened(self._settings, self._calls, time.monotonic() + seconds) as opened:
            seen = opened.look()
        self._channel = seen.agent
        return seen

    def agent(self, end: float) -> AbstractContextManager[Inside]:
        try:
            return Opened(self._settings, self._calls, end)
        except GoneError as error:
            if not self._channel:
                raise
            LOG.warning("%s: the agent of the guest %s is asked by its channel", error.message, self._settings.name)
            return Agent(self._channel, self._settings.name, end, self._opened)

    def monitor(self, end: float) -> Opened:
        return Opened(self._settings, self._calls, end)

    def _opened(self, line: Lines) -> None:
        self._line = line

    def interrupt(self) -> None:
        self._calls.interrupt()
        line = self._line
        if line is not None:
            line.interrupt()


class Opened:
    """One connection and one domain: ``Inside`` and ``Outside``."""

    def __init__(self, settings: GuestSettings, calls: Calls, end: float) -> None:
        """Errors: VssError; GoneError when no daemon answers."""
        self._libvirt = load()
        self._settings, self._calls, self._end = settings, calls, end
        self._late = False
        self._connection = self._run(lambda: connect(settings.libvirt))

    def _run(self, work: Callable[[], T]) -> T:
        """Errors: VssError."""
        try:
            return self._calls.run(work, self._end)
        except VssError as error:
            self._late = error.code == Code.VSS_E_WRITERERROR_TIMEOUT
            raise
        except self._libvirt.libvirtError as error:
            raise self._told(error) from error

    def _told(self, error: Any) -> VssError:
        name, code = self._settings.name, error.get_error_code()
        libvirt = self._libvirt
        if code in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED):
            message = f"the agent of the guest {name} does not answer libvirt ({error}); see that it runs in the guest"
            return VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        if code in (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, libvirt.VIR_ERR_CONFIG_UNSUPPORTED):
            advice = "give its domain a channel org.qemu.guest_agent.0, and run qemu-guest-agent in it"
            message = f"libvirt cannot ask an agent of the guest {name} ({error}); {advice}"
            return VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        message = f"libvirt did not do its work for the guest {name} ({error}); see whether it runs"
        if error.get_error_domain() == libvirt.VIR_FROM_RPC:
            return GoneError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
            return VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        message = f"libvirt refuses its work for the guest {name} ({error}); see what it lacks"
        return VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)

    def _domain(self) -> Any:
        return self._connection.lookupByName(self._settings.name)

    def look(self) -> Seen:
        """Errors: VssError."""
        return self._run(lambda: seen_of(self._libvirt, self._connection, self._settings.name))

    def define(self, xml: str) -> None:
        """Errors: VssError."""
        self._run(lambda: self._connection.defineXML(xml))

    def frozen(self) -> bool:
        """An agent that is frozen refuses everything but to thaw; also to tell the time."""

        def refuses() -> bool:
            try:
                self._domain().getTime()
            except self._libvirt.libvirtError as error:
                if "guest-get-time" not in str(error):
                    raise
                return True
            return False

        return self._run(refuses)

    def freeze(self, mount_points: list[str]) -> int:
        return self._run(lambda: int(self._domain().fsFreeze(mount_points or None)))

    def thaw(self) -> int:
        """A daemon that has just been started again needs a moment until it is connected to its guests' agents."""
        while True:
            try:
                return self._run(lambda: int(self._domain().fsThaw()))
            except GoneError:
                raise
            except VssError as error:
                if error.code != Code.VSS_E_WRITERERROR_RETRYABLE or time.monotonic() + REST_SECONDS >= self._end:
                    raise
            time.sleep(REST_SECONDS)

    def state(self) -> str:
        return self._run(lambda: state_of(self._libvirt, self._domain()))

    def stop(self) -> None:
        self._run(lambda: self._domain().suspend())

    def go_on(self) -> None:
        self._run(lambda: self._domain().resume())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        closing = threading.Thread(target=_close, args=(self._libvirt, self._connection), daemon=True)
        closing.start()
        if not self._late:
            closing.join(CLOSE_SECONDS)


def _close(libvirt: Any, connection: Any) -> None:
    try:
        connection.close()
    except libvirt.libvirtError:
        pass  # its daemon is gone


def discover(uri: str, without_agent: Fallback, seconds: float) -> list[GuestSettings]:
    """All guests that libvirt knows, also those that are off; none where there is no libvirt.

    Errors: VssError when there is one that does not tell: its guests would be cut while they write.
    """
    if not uri:
        return []
    try:
        names = Calls(f"libvirt at {uri}").run(lambda: _names(uri), time.monotonic() + seconds)
    except VssError as error:
        absent = isinstance(error, GoneError) or error.code == Code.VSS_E_NOT_SUPPORTED
        if not absent or _guests_run():
            raise
        LOG.debug("%s", error.message)
        return []
    found = [GuestSettings(name=name, libvirt=uri, without_agent=without_agent) for name in sorted(names)]
    for guest in found:
        if problem := guest.problem():
            LOG.warning("libvirt's guest %s %s: it is left out", guest.name, problem)
    return [guest for guest in found if not guest.problem()]


def _guests_run() -> bool:
    """Whether guests that libvirt started run on, as its own directory tells, which is root's."""
    pids = [Path(path).read_text().strip() for path in glob.glob(STARTED)]
    return any(pid.isdecimal() and os.path.exists(f"/proc/{pid}") for pid in pids)


def _names(uri: str) -> list[str]:
    libvirt, connection = load(), connect(uri)
    try:
        return [domain.name() for domain in connection.listAllDomains()]
    except libvirt.libvirtError as error:
        raise GoneError(
            Code.VSS_E_WRITERERROR_RETRYABLE, f"libvirt at {uri} does not tell its guests ({error})"
        ) from error
    finally:
        _close(libvirt, connection)


def define_missing(settings: GuestSettings, definition: str, hidden: bool, seconds: float) -> bool:
    """Defines the guest when libvirt does not know it; ``hidden`` as in ``Seen``. Errors: VssError."""
    with Opened(settings, Calls("libvirt"), time.monotonic() + seconds) as opened:
        if not opened.look().gone:
            return False
        opened.define(locked(definition) if hidden else definition)
    if hidden:
        LOG.warning("the guest %s is defined with a new password for its display: set yours", settings.name)
    return True
