"""Messages of the kernel's nbd driver, against pyroute2's own coding of the same definitions.

The product codes them itself, since pyroute2 alone takes more memory than a host of 64 MiB has left for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from pyroute2.netlink import genlmsg, nla
from pyroute2.netlink.generic import GenericNetlinkSocket

from shadowset.nbd_provider.attach import genetlink, netlink

GENERIC_HEADER = 20


class Sockets(nla):  # type: ignore[misc]
    nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "sock"))

    class sock(nla):  # type: ignore[misc]
        nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))


class Devices(nla):  # type: ignore[misc]
    nla_map = (("NBD_DEVICE_ITEM_UNSPEC", "none"), ("NBD_DEVICE_ITEM", "device"))

    class device(nla):  # type: ignore[misc]
        nla_map = (("NBD_DEVICE_UNSPEC", "none"), ("NBD_DEVICE_INDEX", "uint32"), ("NBD_DEVICE_CONNECTED", "uint8"))


class Message(genlmsg):  # type: ignore[misc]
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
    sockets = Sockets
    devices = Devices


def encoded(attributes: Sequence[tuple[str, Any]]) -> bytes:
    """The attributes as pyroute2 sends them."""
    message = Message()
    message["cmd"], message["version"] = 1, 1
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data[GENERIC_HEADER : message["header"]["length"]])


def decoded(attributes: bytes) -> Message:
    """What pyroute2 reads out of ours."""
    data = bytes(GENERIC_HEADER) + attributes
    message = Message(len(data).to_bytes(4, sys.byteorder) + data[4:])
    message.decode()
    return message


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Commands and attributes that would have gone to the kernel; each is answered with pyroute2's STATUS."""
    calls: list[tuple[int, bytes]] = []
    devices = [("NBD_DEVICE_ITEM", {"attrs": [("NBD_DEVICE_INDEX", 3), ("NBD_DEVICE_CONNECTED", 1)]})]
    answer = encoded([("NBD_ATTR_INDEX", 3), ("NBD_ATTR_DEVICE_LIST", {"attrs": devices})])

    def ask(_family: int, command: int, attributes: genetlink.Attributes) -> list[dict[int, bytes]]:
        calls.append((command, genetlink.pack(attributes)))
        return [dict(genetlink.unpack(answer))]

    monkeypatch.setattr(genetlink, "family", lambda _name: 99)
    monkeypatch.setattr(genetlink, "ask", ask)
    return calls


def test_connect_says_to_pyroute2_what_it_was_given(sent: list[tuple[int, bytes]]) -> None:
    assert netlink.connect(7, 1 << 40, 4096, 0x12D, 600, "data") == 3
    ((command, attributes),) = sent
    message = decoded(attributes)
    named = (
        "SIZE_BYTES",
        "BLOCK_SIZE_BYTES",
        "SERVER_FLAGS",
        "CLIENT_FLAGS",
        "DEAD_CONN_TIMEOUT",
        "BACKEND_IDENTIFIER",
    )
    assert [message.get_attr(f"NBD_ATTR_{name}") for name in named] == [1 << 40, 4096, 0x12D, 0, 600, "data"]
    sockets = message.get_attr("NBD_ATTR_SOCKETS").get_attrs("NBD_SOCK_ITEM")
    assert [socket.get_attr("NBD_SOCK_FD") for socket in sockets] == [7]
    assert command == 1


def test_flat_messages_are_pyroute2s_byte_for_byte(sent: list[tuple[int, bytes]]) -> None:
    netlink.resize(5, 3 << 30, "odd")
    ours = [("NBD_ATTR_INDEX", 5), ("NBD_ATTR_SIZE_BYTES", 3 << 30), ("NBD_ATTR_BACKEND_IDENTIFIER", "odd")]
    assert sent == [(3, encoded(ours))]


def test_what_pyroute2_coded_is_understood(sent: list[tuple[int, bytes]]) -> None:
    assert netlink.connected(3)
    assert not netlink.connected(4)
    assert [command for command, _ in sent] == [5, 5]


def test_the_kernel_names_the_same_family_to_both() -> None:
    with GenericNetlinkSocket() as peer:
        peer.bind("nlctrl", genlmsg)
        assert genetlink.family("nlctrl") == peer.prid
