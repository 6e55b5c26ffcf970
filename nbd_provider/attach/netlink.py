"""The kernel's nbd driver over generic netlink: the message definition is ours, pyroute2 carries it.

Numbers and meanings are those of the public header ``linux/nbd-netlink.h``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket, GenericNetlinkSocket

from shadowset.vss.codes import Code, VssError

_FAMILY = "nbd"
_VERSION = 1
_CMD_CONNECT = 1
_CMD_DISCONNECT = 2
_CMD_RECONFIGURE = 3
_CMD_STATUS = 5
_WAIT_S = 10.0
_KERNEL_TIMER_MS = 30_000


class _Sockets(nla):  # type: ignore[misc]
    nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "sock"))

    class sock(nla):  # type: ignore[misc]
        nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))


class _Devices(nla):  # type: ignore[misc]
    nla_map = (("NBD_DEVICE_ITEM_UNSPEC", "none"), ("NBD_DEVICE_ITEM", "device"))

    class device(nla):  # type: ignore[misc]
        nla_map = (
            ("NBD_DEVICE_UNSPEC", "none"),
            ("NBD_DEVICE_INDEX", "uint32"),
            ("NBD_DEVICE_CONNECTED", "uint8"),
        )


class _Message(genlmsg):  # type: ignore[misc]
    prefix = "NBD_ATTR_"
    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
        ("NBD_ATTR_DEVICE_LIST", "devices"),
        ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
    )
    sockets = _Sockets
    devices = _Devices


class _AsyncSocket(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    # A missing family is an answer here, not something to log.
    module_err_level = "debug"


class _Socket(GenericNetlinkSocket):  # type: ignore[misc]
    async_class = _AsyncSocket


def available() -> bool:
    """Whether the kernel answers for nbd; tries once to load the module."""
    if _answers():
        return True
    try:
        subprocess.run(["modprobe", "nbd"], capture_output=True, timeout=_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return _answers()


def connect(descriptor: int, size: int, sector_size: int, server_flags: int, dead_time_s: int, backend: str) -> int:
    """N of the new ``/dev/nbdN``, on a socket in the transmission phase. Errors: VssError."""
    attributes: list[list[Any]] = [
        ["NBD_ATTR_SIZE_BYTES", size],
        ["NBD_ATTR_BLOCK_SIZE_BYTES", sector_size],
        ["NBD_ATTR_SERVER_FLAGS", server_flags],
        ["NBD_ATTR_CLIENT_FLAGS", 0],
        ["NBD_ATTR_DEAD_CONN_TIMEOUT", dead_time_s],
        ["NBD_ATTR_BACKEND_IDENTIFIER", backend],
        _sockets(descriptor),
    ]
    for message in _ask(_CMD_CONNECT, attributes, f"connect a device for {backend}"):
        index = message.get_attr("NBD_ATTR_INDEX")
        if index is not None:
            return int(index)
    raise VssError(Code.VSS_E_UNEXPECTED, f"the kernel connected a device for {backend} without naming it")


def reconfigure(index: int, descriptor: int, backend: str) -> None:
    """Gives ``/dev/nbdN`` a fresh socket in place of a dead one; where none is dead nothing happens.

    Errors: VssError.
    """
    attributes: list[list[Any]] = [
        ["NBD_ATTR_INDEX", index],
        ["NBD_ATTR_BACKEND_IDENTIFIER", backend],
        _sockets(descriptor),
    ]
    _ask(_CMD_RECONFIGURE, attributes, f"give /dev/nbd{index} a new connection")


def resize(index: int, size_bytes: int, backend: str) -> None:
    """Gives ``/dev/nbdN`` another size; its connections stay. Errors: VssError."""
    attributes: list[list[Any]] = [
        ["NBD_ATTR_INDEX", index],
        ["NBD_ATTR_SIZE_BYTES", size_bytes],
        ["NBD_ATTR_BACKEND_IDENTIFIER", backend],
    ]
    _ask(_CMD_RECONFIGURE, attributes, f"give /dev/nbd{index} a size of {size_bytes} bytes")


def disconnect(index: int) -> None:
    """Ends ``/dev/nbdN`` and waits until it is empty; unanswered requests fail. Errors: VssError."""
    set_timer(index, _KERNEL_TIMER_MS)
    _ask(_CMD_DISCONNECT, [["NBD_ATTR_INDEX", index]], f"disconnect /dev/nbd{index}")
    deadline = time.monotonic() + _WAIT_S
    while connected(index) or size(index):
        if time.monotonic() > deadline:
            raise VssError(Code.VSS_E_VOLUME_IN_USE, f"/dev/nbd{index} does not let go: look who has it open")
        time.sleep(0.01)


def set_timer(index: int, milliseconds: int) -> None:
    """The age at which the kernel looks again at a request of ``/dev/nbdN``; it outlives the connection."""
    with contextlib.suppress(OSError), open(f"/sys/block/nbd{index}/queue/io_timeout", "w", encoding="ascii") as file:
        file.write(str(milliseconds))


def connected(index: int) -> bool:
    """Whether the kernel says that ``/dev/nbdN`` has a server."""
    for message in _ask(_CMD_STATUS, [["NBD_ATTR_INDEX", index]], f"ask about /dev/nbd{index}"):
        for item in (message.get_attr("NBD_ATTR_DEVICE_LIST") or {"attrs": []})["attrs"]:
            if item[1].get_attr("NBD_DEVICE_INDEX") == index:
                return bool(item[1].get_attr("NBD_DEVICE_CONNECTED"))
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
    socket = _Socket()
    try:
        socket.bind(_FAMILY, _Message)
    except NetlinkError:
        return False
    finally:
        socket.close()
    return True


def _ask(command: int, attributes: list[list[Any]], purpose: str) -> list[Any]:
    message = _Message()
    message["cmd"] = command
    message["version"] = _VERSION
    message["attrs"] = attributes
    socket = _Socket()
    try:
        socket.bind(_FAMILY, _Message)
        return list(socket.nlm_request(message, msg_type=socket.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK))
    except NetlinkError as error:
        reason = errno.errorcode.get(error.code, str(error.code))
        raise VssError(Code.VSS_E_UNEXPECTED, f"the kernel's nbd driver refused to {purpose} ({reason})") from error
    finally:
        socket.close()


def _sockets(descriptor: int) -> list[Any]:
    return ["NBD_ATTR_SOCKETS", {"attrs": [["NBD_SOCK_ITEM", {"attrs": [["NBD_SOCK_FD", descriptor]]}]]}]


def _sysfs(index: int, name: str) -> str:
    try:
        with open(f"/sys/block/nbd{index}/{name}", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""
