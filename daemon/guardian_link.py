"""The coordinator's end of the thaw guardian, and the journal for the case that both are killed.

The order that keeps every file system recoverable: open the mount roots, start the guardian and hear ``ready``, write
the journal, arm, freeze … thaw, ``done``, remove the journal.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod

from shadowset.daemon import guardian
from shadowset.daemon.clock import now
from shadowset.daemon.freeze import FrozenRoot, thaw_descriptor
from shadowset.daemon.mounts import read_mounts
from shadowset.daemon.process import in_thread, within
from shadowset.vss.codes import Code, VssError

START_MS = 10_000
MOUNT_S = 30


class Guard(ABC):
    """What is known of a guardian. ``alarm`` is set to the error when it expires or dies before ``done``."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.alarm: asyncio.Future[VssError] = loop.create_future()
        self.deadline = 0.0
        self._ready: asyncio.Future[None] = loop.create_future()
        self._armed: asyncio.Future[None] | None = None
        self._finished = False

    async def ready(self) -> None:
        """Until it stands by. Errors: VSS_E_UNEXPECTED."""
        await within(START_MS, asyncio.shield(self._ready), Code.VSS_E_UNEXPECTED, "the thaw guardian does not start")

    async def arm(self, deadline: float) -> None:
        """It thaws everything at ``deadline`` (``clock.now``). A later call replaces an earlier one."""
        self._armed = asyncio.get_running_loop().create_future()
        self.send(f"arm {int(deadline * 1e9)}\n")
        await within(START_MS, asyncio.shield(self._armed), Code.VSS_E_UNEXPECTED, "the thaw guardian does not answer")
        self.deadline = deadline

    def forget(self, root: FrozenRoot) -> None:
        """Not (or no longer) its business; may be called from any thread."""
        try:
            self.send(f"forget {root.index}\n")
        except VssError:
            pass

    def check(self) -> None:
        """Errors: VSS_E_HOLD_WRITES_TIMEOUT when it has, or must have, thawed by now; VSS_E_UNEXPECTED when it died.

        The clock decides, not only the report: a coordinator that was stopped and goes on must not believe in a
        freeze that is over.
        """
        if self.deadline and now() >= self.deadline:
            raise _expired()
        if self.alarm.done():
            raise self.alarm.result()

    def finish(self, all_thawed: bool = True) -> None:
        """End it: without thawing once everything is thawed; else it thaws everything, as if we were gone."""
        if self._finished:
            return
        self._finished = True
        try:
            if all_thawed:
                self.send("done\n")
        except VssError:
            pass
        self.put_away()

    def heard(self, report: str) -> None:
        """A line of its report."""
        if report == "ready" and not self._ready.done():
            self._ready.set_result(None)
        elif report == "armed" and self._armed and not self._armed.done():
            self._armed.set_result(None)
        elif report == "expired" and not self.alarm.done():
            self.alarm.set_result(_expired())

    def died(self) -> None:
        """Its reports have ended."""
        error = _died()
        for future in (self._ready, self._armed):
            if future and not future.done():
                future.set_exception(error)
                future.exception()
        if not self.alarm.done():
            self.alarm.set_result(error)

    @abstractmethod
    def send(self, line: str) -> None:
        """Give it a command. Errors: VSS_E_UNEXPECTED when it has died."""

    @abstractmethod
    def put_away(self) -> None:
        """Close what leads to it."""


class GuardianLink(Guard):
    """One guardian process."""

    def __init__(self, roots: list[FrozenRoot]) -> None:
        """Start the process; call ``ready`` before relying on it."""
        super().__init__()
        self._buffer = b""
        commands, self._commands = os.pipe2(os.O_CLOEXEC)
        self._reports, reports = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reports, False)
        descriptors = [commands, reports, *(root.descriptor for root in roots)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", os.path.realpath(guardian.__file__), *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(commands)
            os.close(reports)
        asyncio.get_running_loop().add_reader(self._reports, self._read)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def send(self, line: str) -> None:
        """Give it a command. Errors: VSS_E_UNEXPECTED when it has died."""
        try:
            os.write(self._commands, line.encode())
        except OSError:
            raise _died() from None

    def _read(self) -> None:
        try:
            data = os.read(self._reports, 4096)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self._reports)
            self.died()
            return
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self.heard(line.decode())

    def put_away(self) -> None:
        """Close the pipes; the process ends by itself."""
        asyncio.get_running_loop().remove_reader(self._reports)
        os.close(self._reports)
        os.close(self._commands)
        try:
            in_thread(self._process.wait)
        except RuntimeError:
            pass  # without a thread it is collected when the next one is started


def _expired() -> VssError:
    sentence = "the file systems had to be thawed by the thaw guardian, since they were frozen for too long"
    return VssError(Code.VSS_E_HOLD_WRITES_TIMEOUT, sentence)


def _died() -> VssError:
    return VssError(Code.VSS_E_UNEXPECTED, "the thaw guardian has died; nothing may stay frozen without it")


def write_journal(directory: str, set_id: str, roots: list[FrozenRoot]) -> None:
    """Name the file systems that a set is about to freeze; whole or not at all."""
    entries = [{"path": root.path, "device": root.device, "volume": root.volume} for root in roots if not root.foreign]
    os.makedirs(directory, exist_ok=True)
    path = f"{directory}/{set_id}.json"
    with open(f"{path}.new", "w") as file:
        json.dump({"set_id": set_id, "file_systems": entries}, file)
    os.rename(f"{path}.new", path)


def remove_journal(directory: str, set_id: str) -> None:
    """Nothing of this set is frozen any more."""
    _remove(f"{directory}/{set_id}.json")
    try:
        os.rmdir(directory)
    except OSError:
        pass  # another set has its journal there


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def thaw_leftovers(directory: str) -> list[str]:
    """Thaw what a killed coordinator and its killed guardians left behind; a sentence for each file system."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    sentences = [sentence for name in names for sentence in _thaw_set(f"{directory}/{name}")]
    try:
        os.rmdir(directory)
    except OSError:
        pass  # something that is not ours lies there
    return sentences


def _thaw_set(path: str) -> list[str]:
    if path.endswith(".new"):  # nothing was frozen before it had its name
        _remove(path)
        return []
    try:
        with open(path) as file:
            entries = json.load(file)["file_systems"]
            wanted = [(str(entry["path"]), str(entry["device"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        _remove(path)
        return [f"the journal of frozen file systems {path} cannot be read and was put away: {error}"]
    sentences = [_thaw_leftover(place, device) for place, device in wanted]
    _remove(path)
    return sentences


def _thaw_leftover(place: str, device: str) -> str:
    mounts = [mount for mount in read_mounts() if mount.device == device or mount.path == place]
    trouble = ""
    for mount in mounts:
        try:
            descriptor = os.open(mount.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            trouble = str(error)
            continue
        try:
            trouble = thaw_descriptor(descriptor)
        finally:
            os.close(descriptor)
        if not trouble:
            return f"thawed the file system at {mount.path}, which an interrupted shadow copy set may have left frozen"
    if not mounts:
        trouble = _thaw_unmounted(device) or trouble
        if not trouble:
            return f"thawed the file system that was unmounted from {place} while a shadow copy set had it frozen"
    return f"the file system at {place} may still be frozen: {trouble}"


def _thaw_unmounted(device: str) -> str:
    """Thaw a file system that is mounted nowhere we see, which its freeze keeps alive; what went wrong, or "".

    Only who mounts it gets at it; it is the same one as long as the kernel names its device beside its type.
    """
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{device}"))
    kind = next((kind for kind in ("ext4", "xfs", "f2fs") if os.path.exists(f"/sys/fs/{kind}/{name}")), "")
    if not kind:
        return "it is no longer mounted"
    place = tempfile.mkdtemp(prefix="shadowset-thaw-")
    try:
        for options in ("rw", "ro"):  # the one that it has; the other is refused
            command = ["mount", "-t", kind, "-o", options, f"/dev/{name}", place]
            done = subprocess.run(command, capture_output=True, text=True, timeout=MOUNT_S, check=False)
            if done.returncode == 0:
                return _thaw_and_unmount(place)
        return f"it is no longer mounted, and mounting it failed: {done.stderr.strip()}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it is no longer mounted, and mounting it failed: {error}"
    finally:
        os.rmdir(place)


def _thaw_and_unmount(place: str) -> str:
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return thaw_descriptor(descriptor)
    finally:
        os.close(descriptor)
        subprocess.run(["umount", place], capture_output=True, timeout=MOUNT_S, check=False)
