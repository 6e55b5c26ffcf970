"""Doing the steps, and undoing what an earlier run has made."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import msgspec

from shadowset.requester.setup import leaving
from shadowset.requester.setup.record import Record
from shadowset.requester.setup.steps import AnyStep, Directory, Enabled, File
from shadowset.requester.setup.tree import Tree
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths

UNIT = "shadowsetd.service"
DEVICES = "/dev/shadowset"


class Outcome(msgspec.Struct):
    """One step: ``result`` is made, updated, there, kept, removed or remains, and ``why`` explains the last two."""

    step: str
    result: str
    why: str = ""


Tell = Callable[[Outcome], None]


def record_of(tree: Tree, paths: Paths) -> Record:
    """What is known of earlier runs. Errors: VssError."""
    return Record(tree, f"{paths.state}/setup.json")


def apply(tree: Tree, record: Record, steps: list[AnyStep], dry_run: bool, tell: Tell) -> None:
    """Make what is missing; files that somebody changed stay as they are. Errors: VssError, OSError."""
    verdicts = [
        _verdict(tree, record, step) for step in steps
    ]  # the record's own directories come with its first entry
    for step, (result, why) in zip(steps, verdicts, strict=True):
        if result in ("made", "updated") and not dry_run:
            record.add(step)
            step.do(tree)
        tell(Outcome(step.what(tree), result, why))


def _verdict(tree: Tree, record: Record, step: AnyStep) -> tuple[str, str]:
    if step.there(tree):
        return "there", ""
    if isinstance(step, Enabled) and step.known in record.made:
        return "kept", "somebody disabled it"
    if not isinstance(step, File) or not tree.exists(step.path):
        return "made", ""
    ours = record.made.get(step.known)
    if isinstance(ours, File) and ours.there(tree):
        return "updated", ""
    return "kept", "somebody else made or changed it"


def start(tree: Tree, tell: Tell) -> None:
    """Start the coordinator where systemd runs. Errors: VssError."""
    if tree.live:
        tree.must("systemctl", "daemon-reload")
        tree.must("systemctl", "start", UNIT)
        tell(Outcome(f"running unit {UNIT}", "made"))


def undo(tree: Tree, record: Record, dry_run: bool, tell: Tell) -> int:
    """Take away what was made, the latest first; how many of these steps remain. Errors: VssError, OSError."""
    home = os.path.dirname(record.path)
    gone: set[str] = {record.path}
    remaining: list[AnyStep] = []
    for step in reversed(list(record.made.values())):
        if isinstance(step, Directory) and step.path == home:
            own = leaving.worthless(tree, home)
            gone |= own
            if not dry_run:
                leaving.forget(tree, own)
        why = step.remains(tree, gone)
        if isinstance(step, Directory) and step.path == home and remaining:
            why = why or "it holds the record of what remains"
        shared = isinstance(step, Directory) and step.parent and not _above(step, remaining)
        tell(Outcome(step.what(tree), ("kept" if shared else "remains") if why else "removed", why))
        if why:
            if not shared:
                remaining.append(step)
            elif not dry_run:
                record.drop(step)
            continue
        gone |= {step.path} if isinstance(step, Directory | File) else set()
        if not dry_run:
            _take_away(tree, record, step, home)
    if not record.made:
        record.remove()
    if tree.live and not dry_run:
        tree.must("systemctl", "daemon-reload")
    return len(remaining)


def _above(parent: Directory, steps: list[AnyStep]) -> bool:
    paths = [step.path for step in steps if isinstance(step, Directory | File)]
    return any(path.startswith(f"{parent.path}/") for path in paths)


def _take_away(tree: Tree, record: Record, step: AnyStep, home: str) -> None:
    if isinstance(step, Directory) and step.path == home:
        record.remove()
    step.undo(tree)
    record.drop(step)


def refuse_undo_in_use(tree: Tree, paths: Paths) -> None:
    """Errors: VSS_E_VOLUME_IN_USE while volumes are served to anybody, since the server ends."""
    if tree.root:
        return
    for name in attached_names(paths):
        raise VssError(
            Code.VSS_E_VOLUME_IN_USE,
            f"volume {name} is attached, and what is mounted from it needs the service; unmount it and run "
            f"'shadowset volume detach {name}' first",
        )
    for name in read_names(paths):
        raise VssError(
            Code.VSS_E_VOLUME_IN_USE,
            f"a program is connected to the NBD socket of volume {name}, and needs the service; let it end first",
        )


def attached_names(paths: Paths) -> list[str]:
    """The volumes that have a live device now."""
    directory = DEVICES if paths.runtime == Paths.runtime else f"{paths.runtime}/by-name"
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def read_names(paths: Paths) -> list[str]:
    """The volumes that somebody uses over NBD now, without a device."""
    found = re.compile(rf" 03 +\d+ {re.escape(paths.runtime)}/volumes/([^/]+)/nbd\.sock$", re.MULTILINE)
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
            return sorted(set(found.findall(file.read())))
    except OSError:
        return []
