"""``shadowset storage …``: how much room the old data of each volume may take, and what happens when it is full."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_volume_filter, parse_size

if TYPE_CHECKING:
    from shadowset.requester.administration import Administration
    from shadowset.vss.requester_protocol import StorageInfo, StorageMoveStatus

POLICIES = ("delete-oldest", "refuse-new", "protect-copies")
NEVER = 101
LEAST = 1 << 20
POLL_S = 0.2


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    group = add_command(
        commands,
        "storage",
        None,
        "show, limit and move the shadow storage of volumes",
        "Show the shadow storage of volumes, set how large it may grow and what happens when it is full, and move it.",
        "shadowset storage list\nshadowset storage set data --max-size 100G --policy refuse-new",
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = add_command(
        actions,
        "list",
        run_list,
        "list the shadow storage of each volume",
        "List the shadow storage of each volume: used and available space, maximum size, policy, warning threshold.",
        "shadowset storage list --json",
    )
    add_volume_filter(listing, "only this volume's")
    add_json(listing)
    change = add_command(
        actions,
        "set",
        run_set,
        "change the limits of a volume's shadow storage",
        "Change the limits of a volume's shadow storage. When it is full:\n"
        "  delete-oldest   the copy of the lowest priority, then the oldest, is lost; writes go on (default)\n"
        "  refuse-new      the same, and no new copy is made while there is no room\n"
        "  protect-copies  no copy is lost; writes to the live volume fail with ENOSPC\n"
        "A copy that is held is never lost for space ('shadowset hold').",
        "shadowset storage set data --max-size 100G --warn-at 90",
    )
    change.add_argument("volume", metavar="VOLUME", help="the volume: its name, device or a path on it")
    change.add_argument(
        "--max-size",
        type=parse_limit,
        metavar="BYTES",
        help="K, M, G and T are understood; '20%%' is that part of the storage's file system, 'unlimited' all of it",
    )
    change.add_argument("--policy", choices=POLICIES, help="what happens when it is full")
    change.add_argument(
        "--warn-at", type=parse_percent, metavar="PERCENT", help="an event is sent from here on; or 'never'"
    )
    add_json(change)
    _register_move(actions)


def _register_move(actions: Commands) -> None:
    move = add_command(
        actions,
        "move",
        run_move,
        "move a volume's shadow storage to another directory",
        "Move the shadow storage of a volume, with all its copies, to another directory. The volume stays in use and\n"
        "its copies can be read meanwhile. The directory must be empty or is made. A move that is interrupted, by a\n"
        "power loss too, goes on by itself. The old directory keeps a small file that leads to the new one.",
        "shadowset storage move data /mnt/large/data\nshadowset storage move data --status",
    )
    move.add_argument("volume", metavar="VOLUME", help="the volume: its name, device or a path on it")
    move.add_argument("directory", metavar="DIR", nargs="?", help="where the storage is to be, on no protected volume")
    move.add_argument("--status", action="store_true", help="only say how far a move is")
    move.add_argument("--cancel", action="store_true", help="give up a move that is under way")
    move.add_argument("--no-wait", action="store_true", help="return when it is under way")
    add_json(move)


@dataclass(frozen=True)
class Share:
    """A part of the file system that a storage lies on, in percent."""

    percent: int

    def of(self, storage: str) -> int:
        """Bytes, as large as the file system is now. Errors: E_INVALIDARG when this user cannot see it."""
        from shadowset.vss.codes import Code, VssError

        disk = disk_size(storage)
        if not disk:
            message = f"the size of the file system of shadow storage {storage} is not known here; give bytes"
            raise VssError(Code.E_INVALIDARG, message)
        return disk * self.percent // 100


def disk_size(path: str) -> int:
    """Bytes of the file system that a path lies on; 0 where this user may not see it."""
    try:
        status = os.statvfs(path)
    except OSError:
        return 0
    return status.f_blocks * status.f_frsize


def parse_limit(text: str) -> int | Share:
    """Bytes, or a share of the file system; ``unlimited`` is 0."""
    if text.endswith("%"):
        return Share(parse_percent(text))
    size = 0 if text.lower() in ("unlimited", "unbounded") else parse_size(text)
    if size == 0 and text[:1].isdigit():
        raise argparse.ArgumentTypeError("a storage of no bytes keeps no copies; give bytes, or 'unlimited'")
    return size


def parse_percent(text: str) -> int:
    """1 to 100, or ``never``."""
    if text.lower() == "never":
        return NEVER
    digits = text.removesuffix("%")
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage; give 1 to 100, or 'never'")
    return int(digits)


def run_list(options: argparse.Namespace) -> int:
    """List storages."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import emit_json, say

    with Administration(client="shadowset storage list") as administration:
        storages = administration.storage_list(options.volume)
    if options.json:
        emit_json(storages)
    elif not storages:
        say("No volume is protected; 'shadowset volume add' begins.")
    else:
        say(_table(storages))
    return 0


def _table(storages: list[StorageInfo]) -> str:
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import table

    rows = [
        [
            each.volume,
            size_text(each.used),
            size_text(each.available),
            size_text(each.max_size) if each.max_size else "unlimited",
            each.policy,
            "never" if each.warn_percent >= NEVER else f"{each.warn_percent} %",
            str(each.copies),
            each.storage,
        ]
        for each in storages
    ]
    columns = ["VOLUME", "USED", "AVAILABLE", "MAXIMUM", "WHEN FULL", "WARNS AT", "COPIES", "STORAGE"]
    return table(columns, rows, right=(1, 2, 3, 5, 6))


def run_set(options: argparse.Namespace) -> int:
    """Change limits."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli import UsageError
    from shadowset.requester.cli.output import answer, note
    from shadowset.requester.progress import size_text

    if options.max_size is None and options.policy is None and options.warn_at is None:
        raise UsageError("say what to change: --max-size, --policy or --warn-at")
    with Administration(client="shadowset storage set") as administration:
        limit = options.max_size
        if isinstance(limit, Share):
            limit = limit.of(administration.storage_list(options.volume)[0].storage)
        if limit is not None and 0 < limit < LEAST:
            raise UsageError(f"{size_text(limit)} is too little for any shadow copy; give 1M or more, or 'unlimited'")
        storage = administration.storage_configure(options.volume, limit, options.policy, options.warn_at)
    answer(options.json, storage, _table([storage]))
    if storage.copies and 0 < storage.max_size < storage.used:
        note(_too_small(storage))
    return 0


def _too_small(storage: StorageInfo) -> str:
    from shadowset.requester.progress import size_text

    then = "writes to it fail soon" if storage.policy == "protect-copies" else "shadow copies are lost soon"
    return (
        f"shadowset: the shadow copies of volume {storage.volume} take {size_text(storage.used)} already, more than "
        f"{size_text(storage.max_size)}: {then}; give it more, or delete copies yourself"
    )


def run_move(options: argparse.Namespace) -> int:
    """Move a storage, or look after a move."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli import UsageError
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.sentences import printable

    if (options.directory is not None) + options.status + options.cancel != 1:
        raise UsageError("name the directory to move to, or give --status or --cancel")
    with Administration(client="shadowset storage move") as administration:
        if options.cancel:
            administration.cancel_storage_move(options.volume)
        if options.directory is None:
            status = administration.query_storage_move(options.volume)
        else:
            status = administration.storage_move(options.volume, os.path.abspath(options.directory))
        if options.cancel or not (options.status or options.no_wait):
            status = _watch_move(administration, status, options.cancel)
    if options.json:
        emit_json(status)
    else:
        say(printable(_move_text(status)))
    return 0


def _move_text(status: StorageMoveStatus) -> str:
    from shadowset.requester.progress import size_text

    what = f"The shadow storage of volume {status.volume}"
    if status.phase == "none":
        return f"{what} is in {status.storage}."
    if status.phase == "stopped":
        return f"{what} stays where it is: the move to {status.storage} has ended, {status.reason}."
    return f"{what} is being moved to {status.storage}: {size_text(status.done)} of {size_text(status.total)}."


def _watch_move(administration: Administration, status: StorageMoveStatus, cancelled: bool) -> StorageMoveStatus:
    """Until it has ended. Errors: VSS_E_UNEXPECTED_PROVIDER_ERROR when the storage is not in the new place."""
    from shadowset.requester.progress import Meter
    from shadowset.vss.codes import Code, VssError

    meter = Meter(sys.stderr, f"moving shadow storage of {status.volume}", status.total)
    while status.phase not in ("none", "stopped"):
        meter.total = status.total
        meter.add(max(0, status.done - meter.done))
        time.sleep(POLL_S)
        status = administration.query_storage_move(status.volume)
    meter.finish()
    if status.phase == "stopped" and not cancelled:
        raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, _move_text(status))
    return status
