"""What is known of an attached volume: ``attach.json`` in its run-time directory, a lock, and the name in /dev."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from typing import Final

from shadowset.vss.codes import Code, VssError

_LOCK_WAIT_S = 60.0


class Attachment:
    """One attached volume. ``device`` is "" while attaching.

    ``pid`` and ``started`` (clock ticks since boot) identify the bridge of the FUSE way and ``backing`` its
    file system; ``index`` is N of ``/dev/nbdN``. ``boot`` tells state that a reboot has made stale.
    """

    def __init__(
        self,
        name: str,
        via: str,
        nbd: str,
        export: str,
        boot: str,
        link: str,
        device: str = "",
        pid: int = 0,
        started: int = 0,
        backing: int = 0,
        index: int = -1,
    ) -> None:
        self.name, self.via, self.nbd, self.export = name, via, nbd, export
        self.boot, self.link, self.device = boot, link, device
        self.pid, self.started, self.backing, self.index = pid, started, backing, index


_FIELDS: Final = vars(Attachment("", "", "", "", "", ""))
"""By hand, since the libraries that would do it take a third of the memory that the whole command takes."""


def boot_id() -> str:
    """The kernel's name for this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def load(directory: str) -> Attachment | None:
    """The saved attachment, or None; a file that cannot be read counts as none, for leftovers are found without it."""
    try:
        with open(f"{directory}/attach.json", "rb") as file:
            told = json.load(file)
        attachment = Attachment(**{name: told[name] for name in _FIELDS if name in told})
    except (FileNotFoundError, ValueError, TypeError):
        return None
    fields = vars(attachment)
    return attachment if all(type(fields[name]) is type(usual) for name, usual in _FIELDS.items()) else None


def save(directory: str, attachment: Attachment) -> None:
    """Writes ``attach.json`` whole."""
    path = f"{directory}/attach.json"
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(vars(attachment), file)
    os.replace(f"{path}.new", path)


def forget(directory: str) -> None:
    """Removes ``attach.json``."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/attach.json")


def make_link(link: str, device: str) -> None:
    """Points ``link`` at ``device``, replacing an older one. Errors: VssError."""
    try:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{link}.new")
        os.symlink(device, f"{link}.new")
        os.replace(f"{link}.new", link)
    except OSError as error:
        raise VssError(Code.E_ACCESSDENIED, f"cannot make {link} for {device}: {error.strerror}") from error


def drop_link(link: str, device: str) -> None:
    """Removes ``link`` if it still points at ``device``."""
    with contextlib.suppress(OSError):
        if os.readlink(link) == device:
            os.unlink(link)


@contextlib.contextmanager
def lock(directory: str) -> Iterator[None]:
    """One attach, detach or reconnect of a volume at a time. Errors: VssError after a minute of waiting."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                message = f"another shadowset-attach is at work in {directory}: wait for it, or end it"
                raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
            time.sleep(0.05)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True
