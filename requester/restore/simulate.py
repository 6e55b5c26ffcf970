"""A restore that does not happen: what would go where, as things stand. Writers are not asked, so their targets are not
known; of a chain, each backup is looked at as if those before it had not been restored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from shadowset.requester.backup.manifest import REGULAR, SYMLINK
from shadowset.requester.restore.choose import RestoreItem
from shadowset.requester.restore.puts import Put
from shadowset.requester.restore.targets import REFUSED, STOPS_SERVICE, find_way, stale_of
from shadowset.requester.restore.wishes import Wishes, new_targets
from shadowset.vss.codes import VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType


class SimulatedFile(msgspec.Struct, kw_only=True):
    """A file of the backup and where it would go; ``action`` is create, replace or change (parts of it)."""

    path: str
    destination: str
    action: str
    bytes: int


class SimulatedComponent(msgspec.Struct, kw_only=True):
    """What the restore of one component from one backup would do; ``reason`` says why it would not be done.

    ``events``: its writer would be told. ``service`` would be stopped and started.
    """

    backup: str
    writer: str
    component: str
    method: str
    events: bool
    files: list[SimulatedFile] = []
    removed: list[str] = []
    reason: str = ""
    service: str = ""
    at_reboot: bool = False


def simulate(steps: list[list[RestoreItem]], wishes: Wishes, variables: Mapping[str, str]) -> list[SimulatedComponent]:
    """One entry for each component in each backup. Errors: VssError for wishes that meet nothing."""
    return [_simulate(item, wishes, variables) for items in steps for item in items]


def _simulate(item: RestoreItem, wishes: Wishes, variables: Mapping[str, str]) -> SimulatedComponent:
    method = item.metadata.restore_method
    found = SimulatedComponent(
        backup=item.link.directory,
        writer=item.metadata.name,
        component=item.path,
        method=method.method.name,
        events=item.events,
        service=method.service if method.method in STOPS_SERVICE else "",
    )
    component = Component(ComponentType.UNDEFINED, "", item.component.name)
    component.new_targets = new_targets(item, wishes, variables)
    if method.method in REFUSED:
        found.reason = f"its writer wants it restored by {method.method.name}, its own way"
        return found
    try:
        way = find_way(item, component, variables, check=item.first)
    except VssError as error:
        found.reason = error.message
        return found
    found.files = [_file(put) for put in way.puts if put.file.kind in (REGULAR, SYMLINK)]
    found.removed = stale_of(item, way, variables)
    found.at_reboot = way.at_reboot
    return found


def _file(put: Put) -> SimulatedFile:
    there = os.path.lexists(put.destination)
    action = "create" if not there else "change" if put.spans else "replace"
    return SimulatedFile(path=put.file.path, destination=put.destination, action=action, bytes=put.file.size)
