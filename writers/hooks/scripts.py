"""Which commands freeze and thaw, by the rules of the products whose scripts they are.

QEMU's guest agent
    every executable of a directory, in the order of its names, with ``freeze`` and later ``thaw``; leftovers of editors
    and package managers are passed over.
VMware Tools
    ``freeze`` in the order of the names, ``thaw`` in the opposite order; when one fails, those that ran are called with
    ``freezeFail``, in the opposite order too. Beside the directory, or without one, ``/usr/sbin/pre-freeze-script`` is
    the first and ``/usr/sbin/post-thaw-script`` the last.
Azure's snapshot extension
    a JSON file names one script for before and one for after, with parameters and retries. What it says about going on
    after a failure is not taken over: here the writer's own ``required`` decides.
Google's guest agent
    ``pre.sh`` before and ``post.sh`` after; the list of disks that the agent hands on is empty here.
Snapper
    plug-ins whose names begin with a digit, in the order of their names: ``create-snapshot-pre``, and after the cut
    ``create-snapshot-post``, with subvolume, kind of file system, and 0, snapper's number of the live system.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.hooks.settings import POST_THAW, PRE_FREEZE, Hook

LEFTOVERS = ("~", ".bak", ".orig", ".sample", ".rpmnew", ".rpmorig", ".rpmsave", ".dpkg-dist", ".dpkg-new", ".dpkg-old")
MAX_RETRIES = 10
SNAPPERS_LIVE_SYSTEM = "0"


@dataclass(frozen=True)
class Step:
    """One script: how to freeze, to thaw, and to take back a freeze after another script's failure."""

    name: str
    freeze: list[str]
    thaw: list[str]
    undo: list[str]
    freeze_tries: int = 1
    thaw_tries: int = 1


class AzurePlugin(msgspec.Struct, rename="camel"):
    """The file of Azure's extension; what is not needed here is passed over."""

    pre_script_location: str
    post_script_location: str
    pre_script_params: list[str] = []
    post_script_params: list[str] = []
    pre_script_no_of_retries: Annotated[int, msgspec.Meta(ge=0, le=MAX_RETRIES)] = 0
    post_script_no_of_retries: Annotated[int, msgspec.Meta(ge=0, le=MAX_RETRIES)] = 0


def steps_of(hook: Hook) -> list[Step]:
    """The scripts in the order of freezing; thaw goes through ``thaw_order``.

    Errors: VSS_E_OBJECT_NOT_FOUND when the place is not there; E_ACCESSDENIED when somebody else could change it.
    """
    made: dict[str, Callable[[Hook], list[Step]]] = {
        "qemu": _qemu,
        "vmware": _vmware,
        "azure": _azure,
        "google": _google,
        "snapper": _snapper,
        "command": lambda hook: [Step(hook.title, hook.freeze, hook.thaw, hook.thaw)],
    }
    steps = made[hook.kind](hook)
    for step in steps:
        for command in (step.freeze, step.thaw):
            if command:
                _require_safe(command[0])
    return steps


def thaw_order(hook: Hook, steps: list[Step]) -> list[Step]:
    """The scripts in the order of thawing."""
    return steps if hook.kind in ("qemu", "snapper") else steps[::-1]


def _executables(place: str) -> list[str]:
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError as error:
        message = f"the hook directory {place} cannot be read ({error.strerror}); check the configuration"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message) from error
    return [
        entry.path
        for entry in entries
        if entry.is_file() and os.access(entry.path, os.X_OK) and not entry.name.endswith(LEFTOVERS)
    ]


def _qemu(hook: Hook) -> list[Step]:
    return [_called(path, "thaw") for path in _executables(hook.place)]


def _vmware(hook: Hook) -> list[Step]:
    beside = hook.place == Hook(kind="vmware").place and (os.path.exists(PRE_FREEZE) or os.path.exists(POST_THAW))
    paths = [] if beside and not os.path.exists(hook.place) else _executables(hook.place)
    steps = [_called(path, "freezeFail") for path in paths]
    if beside:
        freeze = [PRE_FREEZE, "freeze"] if os.path.exists(PRE_FREEZE) else []
        thaw = [POST_THAW, "thaw"] if os.path.exists(POST_THAW) else []
        undo = [POST_THAW, "freezeFail"] if thaw else []
        steps.insert(0, Step("pre-freeze-script", freeze, thaw, undo))
    return steps


def _called(path: str, undo: str) -> Step:
    return Step(os.path.basename(path), [path, "freeze"], [path, "thaw"], [path, undo])


def _azure(hook: Hook) -> list[Step]:
    try:
        plugin = msgspec.json.decode(Path(hook.place).read_bytes(), type=AzurePlugin)
    except (OSError, msgspec.MsgspecError) as error:
        message = f"{hook.place} cannot be used ({error}); check the file"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message) from error
    _require_safe(hook.place)
    after = [plugin.post_script_location, *plugin.post_script_params]
    return [
        Step(
            os.path.basename(plugin.pre_script_location),
            [plugin.pre_script_location, *plugin.pre_script_params],
            after,
            after,
            plugin.pre_script_no_of_retries + 1,
            plugin.post_script_no_of_retries + 1,
        )
    ]


def _google(hook: Hook) -> list[Step]:
    before, after = ([f"{hook.place}/{name}.sh", ""] for name in ("pre", "post"))
    if not os.path.exists(before[0]) and not os.path.exists(after[0]):
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND, f"{hook.place} has no pre.sh and no post.sh; check the configuration"
        )
    thaw = after if os.path.exists(after[0]) else []
    return [Step("google", before if os.path.exists(before[0]) else [], thaw, thaw)]


def _snapper(hook: Hook) -> list[Step]:
    subvolume = os.path.realpath(hook.files[0])
    about = [subvolume, _file_system(subvolume), SNAPPERS_LIVE_SYSTEM]
    paths = [path for path in _executables(hook.place) if os.path.basename(path)[0].isdigit()]
    return [
        Step(
            os.path.basename(path),
            [path, "create-snapshot-pre", *about],
            [path, "create-snapshot-post", *about],
            [path, "create-snapshot-post", *about],
        )
        for path in paths
    ]


def _file_system(path: str) -> str:
    """The kind of the file system with the innermost mount point above ``path``."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [line.split()[1:3] for line in file]
    above = [(point, kind) for point, kind in mounts if path == point or path.startswith(point.rstrip("/") + "/")]
    return max(above, key=lambda pair: len(pair[0]), default=("", ""))[1]


def _require_safe(path: str) -> None:
    """What is run as root must be root's: others could run anything through it."""
    if not os.path.isabs(path):
        raise VssError(Code.E_INVALIDARG, f"the hook {path} is no absolute path; write it out in full")
    try:
        status: Any = os.stat(path)
    except OSError as error:
        message = f"the hook {path} cannot be found ({error.strerror}); check the configuration"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message) from error
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        message = f"the hook {path} can be changed by others; make it root's, and writable by root alone"
        raise VssError(Code.E_ACCESSDENIED, message)
