"""Checks of the coordinator, its units, sockets, settings and those who talk to it."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

from shadowset import __version__
from shadowset.requester.doctor.finding import Finding, Patient, problem, warning
from shadowset.requester.doctor.room import more_room
from shadowset.vss.enums import WriterState
from shadowset.vss.paths import Paths

UNIT_PLACES = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
ENABLED_BY = ("multi-user.target.wants/shadowsetd.service", "sockets.target.wants/shadowsetd.socket")
WEEK_NS = 7 * 86400 * 10**9


def coordinator(patient: Patient) -> Iterator[Finding]:
    """It answers, in the version of this program."""
    service = patient.told.service
    if service is None:
        yield problem(
            "coordinator",
            "the coordinator",
            f"it does not answer: {patient.told.why}",
            "start it: systemctl start shadowsetd, or 'shadowset serve'; where it runs, ask as root",
        )
    elif service.version != __version__:
        yield warning(
            "coordinator",
            f"the coordinator (process {service.pid})",
            f"it runs version {service.version}, but {__version__} is installed",
            "restart it: systemctl restart shadowsetd; live volumes go on",
        )


def devices(patient: Patient) -> Iterator[Finding]:
    """Device objects are there while the coordinator is, and go on without it, so that mounted copies stay readable."""
    told, place = patient.told.service, patient.paths.devices
    mounted = any(mount.path == place for mount in patient.host.mounts())
    if told is not None and not told.devices_pid:
        yield problem(
            "devices",
            f"device objects below {place}",
            "nobody serves them, so that shadow copies cannot be mounted or read",
            f"see why in {patient.paths.runtime}/fuse.log; the coordinator tries again by itself",
        )
    elif told is None and mounted:
        pid = patient.host.read(f"{patient.paths.runtime}/fuse.pid").strip() or "?"
        yield warning(
            "devices",
            f"mount {place} (shadowset-fuse, process {pid})",
            "it goes on without a coordinator, on purpose: shadow copies that are mounted stay readable meanwhile",
            f"start the coordinator, which takes it over; where it is to stay away, unmount the copies, then {place}, "
            "which ends it",
        )


def units(patient: Patient) -> Iterator[Finding]:
    """The coordinator starts with the host."""
    host = patient.host
    if patient.paths != Paths() or not host.exists("/run/systemd/system"):
        return
    if not any(host.exists(f"{place}/shadowsetd.service") for place in UNIT_PLACES):
        yield warning(
            "units",
            "unit shadowsetd.service",
            "it is not installed, so nothing brings volumes back after a reboot",
            "run 'shadowset setup'",
        )
    elif not any(host.exists(f"/etc/systemd/system/{link}") for link in ENABLED_BY):
        yield warning(
            "units",
            "unit shadowsetd.service",
            "it is not enabled, so nothing brings volumes back after a reboot",
            "enable it: systemctl enable shadowsetd",
        )


def sockets(patient: Patient) -> Iterator[Finding]:
    """Nobody is let down by a socket that nobody serves."""
    host, paths = patient.host, patient.paths
    volumes = host.names(f"{paths.runtime}/volumes")
    places = [paths.requester_socket, paths.writer_socket]
    places += [place for name in volumes for place in (paths.control_socket(name), paths.nbd_socket(name))]
    for place in places:
        if host.is_socket(place) and not host.listens(place):
            yield warning(
                "sockets",
                f"socket {place}",
                "whoever served it has died and left it behind",
                "start the coordinator, which puts a new one in its place",
            )


def settings(patient: Patient) -> Iterator[Finding]:
    """The coordinator could start with its files as they are now."""
    trouble = patient.host.settings_trouble()
    if trouble:
        yield problem(
            "settings",
            f"settings below {patient.paths.config}",
            f"the coordinator will not start with them: {trouble}",
            "correct the file; 'shadowset config show' tells when it is right",
        )


def private_state(patient: Patient) -> Iterator[Finding]:
    """Old contents of all volumes lie there."""
    for place in (patient.paths.state, patient.paths.storage):
        status = patient.host.status(place)
        if status and place == patient.paths.storage and status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            yield warning(
                "state",
                f"directory {place}",
                f"its mode is {mode:04o}, so others can look at where shadow storage lies",
                f"close it: chmod 700 {place}",
            )


def writers(patient: Patient) -> Iterator[Finding]:
    """Writers work, and those that are installed may connect."""
    for writer in patient.told.writers:
        if writer.failure.code or writer.state.name.startswith("FAILED"):
            yield warning(
                "writers",
                f"writer {writer.name} (process {writer.pid})",
                f"its last state is {_words(writer.state)}"
                + (f": {writer.failure.message}" if writer.failure.message else ""),
                "look at its log and run 'shadowset writers'; a retry may do",
            )
    yield from _units_without_permission(patient)


def _words(state: WriterState) -> str:
    return state.name.lower().replace("_", " ")


def _units_without_permission(patient: Patient) -> Iterator[Finding]:
    host = patient.host
    socket = host.status(patient.paths.writer_socket)
    if socket is None or socket.st_mode & 0o002:
        return  # everybody may connect, and the coordinator judges
    enabled = "/etc/systemd/system/multi-user.target.wants"
    for unit in [name for name in host.names(enabled) if name.startswith("shadowset-writer-")]:
        template = re.sub(r"@[^.]*\.", "@.", unit)
        texts = [host.read(f"{place}/{template}") for place in UNIT_PLACES]
        user = re.search(r"^User=(\S+)", next(filter(None, texts), ""), re.MULTILINE)
        known = host.groups_of(user[1]) if user else None
        if user and (known is None or (known[0] != 0 and socket.st_gid not in known[1])):
            cause = "is unknown here" if known is None else f"may not open {patient.paths.writer_socket}"
            yield problem(
                "writer-permission",
                f"unit {unit}",
                f"its user {user[1]} {cause}, so the application takes no part in shadow copies",
                f"allow it: 'shadowset setup --writer {user[1]}', then restart shadowsetd",
            )


def refused(patient: Patient) -> Iterator[Finding]:
    """Who was turned away lately."""
    since = patient.host.now_ns() - WEEK_NS
    denied = [event for event in patient.told.events if event.name == "access-denied" and event.time_ns >= since]
    for message in dict.fromkeys(event.message for event in denied):
        yield warning(
            "access",
            "a client of the coordinator",
            message,
            "allow it in /etc/shadowset/access.d, or stop that program",
        )


def losses(patient: Patient) -> Iterator[Finding]:
    """Copies that went without being asked to."""
    since = patient.host.now_ns() - WEEK_NS
    lost: dict[str, int] = {}
    for event in patient.told.events:
        if event.name == "snapshot-lost" and event.time_ns >= since:
            lost[event.volume] = lost.get(event.volume, 0) + 1
        elif event.name == "volume-removed":
            lost.pop(event.volume, None)  # one of the same name that came later is another
    for storage in patient.told.storages:
        if number := lost.get(storage.volume, 0):
            yield warning(
                "losses",
                f"volume {storage.volume}",
                f"{number} shadow {'copy was' if number == 1 else 'copies were'} lost in the last seven days",
                f"see why with 'shadowset events'; where its storage was full, {more_room(storage)}",
            )
