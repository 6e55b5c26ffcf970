"""The kernel's nbd driver over generic netlink.

Numbers and meanings are those of the public header ``linux/nbd-netlink.h``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from shadowset.nbd_provider.attach import genetlink
from shadowset.nbd_provider.attach.genetlink import Attributes, text, u32, u64
from shadowset.vss.codes import Code, VssError

_FAMILY = "nbd"
_CMD_CONNECT = 1
_CMD_DISCONNECT = 2
_CMD_RECONFIGURE = 3
_CMD_STATUS = 5
_INDEX = 1
_SIZE_BYTES = 2
_BLOCK_SIZE_BYTES = 3
_SERVER_FLAGS = 5
_CLIENT_FLAGS = 6
_SOCKETS = 7
_DEAD_CONN_TIMEOUT = 8
_DEVICE_LIST = 9
_BACKEND_IDENTIFIER = 10
_SOCK_ITEM = _SOCK_FD = 1
_DEVICE_INDEX = 1
_DEVICE_CONNECTED = 2
_WAIT_S = 10.0
_KERNEL_TIMER_MS = 30_000


def available() -> bool:
    """Whether the kernel answers for nbd; tries once to load the module. Errors: VssError without memory."""
    if _answers():
        return True
    import subprocess

    try:
        subprocess.run(["modprobe", "nbd"], capture_output=True, timeout=_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return _answers()


def connect(descriptor: int, size: int, sector_size: int, server_flags: int, dead_time_s: int, backend: str) -> int:
    """N of the new ``/dev/nbdN``, on a socket in the transmission phase. Errors: VssError."""
    attributes: Attributes = [
        (_SIZE_BYTES, u64(size)),
        (_BLOCK_SIZE_BYTES, u64(sector_size)),
        (_SERVER_FLAGS, u64(server_flags)),
        (_CLIENT_FLAGS, u64(0)),
        (_DEAD_CONN_TIMEOUT, u64(dead_time_s)),
        (_BACKEND_IDENTIFIER, text(backend)),
        _sockets(descriptor),
    ]
    for answer in _ask(_CMD_CONNECT, attributes, f"connect a device for {backend}"):
        if _INDEX in answer:
            return genetlink.number(answer[_INDEX])
    raise VssError(Code.VSS_E_UNEXPECTED, f"the kernel connected a device for {backend} without naming it")


def reconfigure(index: int, descriptor: int, backend: str) -> None:
    """Gives ``/dev/nbdN`` a fresh socket in place of a dead one; where none is dead nothing happens.

    Errors: VssError.
    """
    attributes: Attributes = [
        (_INDEX, u32(index)),
        (_BACKEND_IDENTIFIER, text(backend)),
        _sockets(descriptor),
    ]
    _ask(_CMD_RECONFIGURE, attributes, f"give /dev/nbd{index} a new connection")


def resize(index: int, size_bytes: int, backend: str) -> None:
    """Gives ``/dev/nbdN`` another size; its connections stay. Errors: VssError."""
    attributes: Attributes = [
        (_INDEX, u32(index)),
        (_SIZE_BYTES, u64(size_bytes)),
        (_BACKEND_IDENTIFIER, text(backend)),
    ]
    _ask(_CMD_RECONFIGURE, attributes, f"give /dev/nbd{index} a size of {size_bytes} bytes")


def disconnect(index: int) -> None:
    """Ends ``/dev/nbdN`` and waits until it is empty; unanswered requests fail. Errors: VssError."""
    set_timer(index, _KERNEL_TIMER_MS)
    _ask(_CMD_DISCONNECT, [(_INDEX, u32(index))], f"disconnect /dev/nbd{index}")
    deadline = time.monotonic() + _WAIT_S
    while connected(index) or size(index):
        if time.monotonic() > deadline:
            raise VssError(Code.VSS_E_VOLUME_IN_USE, f"/dev/nbd{index} does not let go: look who has it open")
        time.sleep(0.01)


def set_timer(index: int, milliseconds: int) -> None:
    """The age at which the kernel looks again at a request of ``/dev/nbdN``; it outlives the connection."""
    set_queue(index, "io_timeout", milliseconds)


def set_queue(index: int, name: str, value: int) -> None:
    """A setting of the queue of ``/dev/nbdN``, where the kernel has it."""
    with contextlib.suppress(OSError), open(f"/sys/block/nbd{index}/queue/{name}", "w", encoding="ascii") as file:
        file.write(str(value))


def connected(index: int) -> bool:
    """Whether the kernel says that ``/dev/nbdN`` has a server."""
    for answer in _ask(_CMD_STATUS, [(_INDEX, u32(index))], f"ask about /dev/nbd{index}"):
        for _, item in genetlink.unpack(answer.get(_DEVICE_LIST, b"")):
            device = dict(genetlink.unpack(item))
            if genetlink.number(device.get(_DEVICE_INDEX, b"")) == index:
                return bool(genetlink.number(device.get(_DEVICE_CONNECTED, b"")))
    return False


def wait_for(index: int, size_bytes: int) -> str:
    """``/dev/nbdN`` when it is there with this size. Errors: VssError after ten seconds."""
    device = f"/dev/nbd{index}"
    deadline = time.monotonic() + _WAIT_S
    while size(index) != size_bytes or not os.path.exists(device):
        if time.monotonic() > deadline:
            message = f"{device} has {size(index)} bytes instead of {size_bytes}, or no node: look at the kernel's log"
            raise VssError(Code.VSS_E_UNEXPECTED, message)
        time.sleep(0.01)
    return device


def size(index: int) -> int:
    """Bytes of ``/dev/nbdN``; 0 when it is empty or absent."""
    return int(_sysfs(index, "size") or 0) * 512


def backend(index: int) -> str:
    """The backend identifier that ``/dev/nbdN`` was connected with, or "" (also on kernels before 5.14)."""
    return _sysfs(index, "backend")


def indices_of(identifier: str) -> list[int]:
    """All devices with this backend identifier."""
    numbers = [int(name[3:]) for name in os.listdir("/sys/block") if name[:3] == "nbd" and name[3:].isdigit()]
    return [number for number in numbers if backend(number) == identifier]


def _answers() -> bool:
    """Errors: VssError when nobody can tell, since without nbd another way would be gone."""
    try:
        genetlink.family(_FAMILY)
    except OSError as error:
        if error.errno in (errno.ENOMEM, errno.ENOBUFS):
            raise VssError(Code.E_OUTOFMEMORY, f"cannot ask the kernel about nbd: {error.strerror}") from error
        return False
    return True


def _ask(command: int, attributes: Attributes, purpose: str) -> list[dict[int, bytes]]:
    try:
        return genetlink.ask(genetlink.family(_FAMILY), command, attributes)
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, str(error))
        raise VssError(Code.VSS_E_UNEXPECTED, f"the kernel's nbd driver refused to {purpose} ({reason})") from error


def _sockets(descriptor: int) -> tuple[int, Attributes]:
    return _SOCKETS, [(_SOCK_ITEM, [(_SOCK_FD, u32(descriptor))])]


def _sysfs(index: int, name: str) -> str:
    try:
        with open(f"/sys/block/nbd{index}/{name}", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""
