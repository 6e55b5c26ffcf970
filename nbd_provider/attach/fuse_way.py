"""The way through FUSE: a bridge process serves the export as a file, under a loop device with direct I/O."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

from shadowset.nbd_provider.attach import bridge_state, fuse, keeper, loop, state, usage
from shadowset.nbd_provider.attach.bridge_state import Serving
from shadowset.nbd_provider.attach.client import NEGOTIATION_TIMEOUT_S
from shadowset.nbd_provider.attach.disk import FILE_NAME
from shadowset.nbd_provider.attach.state import Attachment
from shadowset.nbd_provider.process import groups_of
from shadowset.vss.codes import Code, VssError
from shadowset.vss.processes import start_time

_START_S = NEGOTIATION_TIMEOUT_S + 10.0
_END_S = 10.0
_HANDOVER_S = 30.0


def attach(directory: str, attachment: Attachment, dead_time: float) -> None:
    """Fills in ``device``, ``pid`` and ``started`` (the keeper's) of ``attachment`` and saves it on the way.

    Errors: VssError; what is there by then is found and removed by ``clean``.
    """
    mount = _mount(directory)
    os.makedirs(mount, mode=0o700, exist_ok=True)
    child = _spawn(directory, attachment, dead_time)
    attachment.pid, attachment.started = child.pid, start_time(child.pid)
    state.save(directory, attachment)
    about = _answer(child, attachment.name, directory)
    attachment.device = loop.attach_loop(
        f"{mount}/{FILE_NAME}", read_only=about["read_only"], direct_io=True, block_size=about["sector_size"]
    )
    attachment.backing = loop.backing_number(attachment.device)


def works(directory: str, attachment: Attachment) -> bool:
    """Whether bridge, mount and loop device are all there. Does not ask the server, which may be restarting."""
    return (
        bridge_state.load_status(directory).runs
        and usage.mounted_at(_mount(directory))
        and loop.backing_file(attachment.device) == f"{_mount(directory)}/{FILE_NAME}"
    )


def resize(directory: str, attachment: Attachment, size: int) -> None:
    """Lets file and loop device grow to ``size`` bytes, which the export has by now. Errors: VssError."""
    try:
        os.truncate(f"{_mount(directory)}/{FILE_NAME}", size)
    except OSError as error:
        reason = f"({error.strerror}): {_last_line(directory)}"
        message = f"the bridge of volume {attachment.name} does not take a size of {size} bytes {reason}"
        raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message) from error
    loop.resize_loop(attachment.device, size)


def clean(directory: str, attachment: Attachment | None, name: str, abort: bool) -> None:
    """Removes loop device, mount and bridge, as many as there are; with ``abort`` requests under way fail first.

    Errors: VssError while the device is in use; then nothing was removed.
    """
    mount = _mount(directory)
    devices = _devices(mount, attachment)
    for device in devices:
        usage.refuse_when_used(device, name, look_only=abort)
    groups = _groups(directory, attachment, name)
    if abort and usage.mounted_at(mount):
        fuse.abort(mount)
    for device in devices:
        loop.detach_loop(device)
    while usage.mounted_at(mount) and fuse.unmount(mount):
        pass
    _end(directory, attachment)
    for group in groups:
        with contextlib.suppress(OSError):
            os.rmdir(group)
    _remove_files(directory)


def _devices(mount: str, attachment: Attachment | None) -> list[str]:
    """By path, and by the number of the file system when someone has taken the mount from under the device."""
    devices = loop.devices_on(f"{mount}/{FILE_NAME}")
    if attachment is None or not attachment.backing or attachment.device in devices:
        return devices
    lost = loop.backing_number(attachment.device) == attachment.backing
    return [*devices, attachment.device] if lost else devices


def _remove_files(directory: str) -> None:
    bridge_state.forget(directory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/bridge.log")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(_mount(directory))


def _mount(directory: str) -> str:
    return f"{directory}/bridge"


def _group(name: str) -> str:
    return f"shadowset-bridge-{name}"


def _groups(directory: str, attachment: Attachment | None, name: str) -> set[str]:
    """The cgroups that were made for its processes."""
    found: set[str] = set()
    for pid in _running(directory, attachment):
        with contextlib.suppress(OSError):
            found.update(group for group in groups_of(pid) if os.path.basename(group) == _group(name))
    return found


def _running(directory: str, attachment: Attachment | None) -> list[int]:
    """Keeper and bridge, as far as they are there."""
    status = bridge_state.load_status(directory)
    known = {(status.keeper, status.keeper_started), (status.bridge, status.bridge_started)}
    if attachment is not None:
        known.add((attachment.pid, attachment.started))
    return [pid for pid, started in known if pid > 0 and start_time(pid) == started != 0]


def _spawn(directory: str, attachment: Attachment, dead_time: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shadowset.nbd_provider.attach.keeper", "--directory", directory]
    command += ["--nbd", attachment.nbd, "--export", attachment.export, "--mount", _mount(directory)]
    command += ["--group", _group(attachment.name), "--dead-time", str(dead_time)]
    with open(f"{directory}/bridge.log", "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _answer(child: subprocess.Popen[bytes], name: str, directory: str) -> dict[str, Any]:
    """The bridge's one line, when it has mounted. Errors: VssError with the bridge's own sentence."""
    assert child.stdout is not None
    with child.stdout:
        ready, _, _ = select.select([child.stdout], [], [], _START_S)
        line = child.stdout.readline() if ready else b""
    if not line:
        message = f"the bridge of volume {name} did not start: {_last_line(directory)}"
        raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message)
    about: dict[str, Any] = json.loads(line)
    if "error" in about:
        raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"cannot attach volume {name}: {about['error']}")
    return about


def _last_line(directory: str) -> str:
    with open(f"{directory}/bridge.log", encoding="utf-8", errors="replace") as file:
        lines = file.read().split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _end(directory: str, attachment: Attachment | None) -> None:
    """Both end by themselves without their mount; what does not is killed."""
    deadline = time.monotonic() + _END_S
    while running := _running(directory, attachment):
        if time.monotonic() > deadline:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.01)


def hand_over(directory: str, name: str) -> Serving:
    """Keeper and bridge go on with the installed code; returns what serves. Errors: VssError; the old one goes on."""
    before, status = bridge_state.load_serving(directory), bridge_state.load_status(directory)
    if before is None or not before.resend:
        message = f"volume {name}: this kernel cannot give a new bridge what the old one has taken (Linux 6.9 can)"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message)
    if not status.keeper:
        raise VssError(Code.VSS_E_BAD_STATE, f"volume {name}: its bridge is just being started; try again in a moment")
    with contextlib.suppress(ProcessLookupError):
        os.kill(status.keeper, keeper.REPLACE)
    deadline = time.monotonic() + _HANDOVER_S
    while True:
        now = bridge_state.load_serving(directory)
        if now is not None and now.pid != before.pid and bridge_state.load_status(directory).bridge == now.pid:
            return now
        if time.monotonic() > deadline:
            message = f"the bridge of volume {name} was not replaced: {_last_line(directory)}"
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message)
        time.sleep(0.02)
