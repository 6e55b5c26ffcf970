"""All checks, one after another."""

from __future__ import annotations

from shadowset.requester.administration import Administration
from shadowset.requester.connection import ServiceUnavailable
from shadowset.requester.doctor import kernel, service, storage
from shadowset.requester.doctor.finding import Check, Finding, Patient, Told
from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths

CHECKS: tuple[Check, ...] = (
    kernel.kernel_version,
    kernel.block_devices,
    kernel.fuse,
    kernel.clock,
    kernel.memory,
    service.coordinator,
    service.devices,
    service.units,
    service.sockets,
    service.settings,
    service.private_state,
    service.writers,
    service.refused,
    service.losses,
    storage.volumes,
    storage.storages,
    storage.frozen,
    storage.loops,
    storage.mounts,
    storage.selftests,
)


def ask(paths: Paths) -> Told:
    """What the coordinator says; why there is none is part of it."""
    try:
        with Administration(paths, client="shadowset doctor") as administration:
            return Told(
                service=administration.hello(),
                volumes=administration.volume_list(),
                storages=administration.storage_list(),
                writers=administration.list_writers(),
                copies=administration.query(),
                events=administration.list_events(),
            )
    except (ServiceUnavailable, VssError) as error:
        return Told(why=error.message)


def examine(patient: Patient) -> list[Finding]:
    """Problems first, each kind in the order of the checks."""
    found = [finding for check in CHECKS for finding in check(patient)]
    return sorted(found, key=lambda finding: finding.level != "problem")
