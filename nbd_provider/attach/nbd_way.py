"""The way through the kernel: ``/dev/nbdN``, connected over netlink to sockets that are negotiated here."""

from __future__ import annotations

import contextlib
import math
import os
import socket

from shadowset.nbd_provider.attach import client, netlink, usage
from shadowset.nbd_provider.attach.state import Attachment

_CONNECTIONS = min(4, os.cpu_count() or 1)


def attach(attachment: Attachment, dead_time: float) -> None:
    """Fills in ``device`` and ``index`` of ``attachment``.

    Errors: VssError; what is there by then is found and removed by ``clean``.
    """
    with contextlib.ExitStack() as stack:
        sockets, export = _connections(stack, attachment)
        attachment.index = netlink.connect(
            [sock.fileno() for sock in sockets],
            export.size,
            export.sector_size,
            export.flags,
            math.ceil(dead_time),
            backend(attachment.name),
        )
    attachment.device = netlink.wait_for(attachment.index, export.size)


def works(attachment: Attachment) -> bool:
    """Whether the device is still the one that was connected. Does not ask the server, which may be restarting."""
    return (
        attachment.index >= 0
        and netlink.backend(attachment.index) == backend(attachment.name)
        and netlink.connected(attachment.index)
    )


def clean(attachment: Attachment, abort: bool) -> None:
    """Disconnects the device, also one that an attach which did not end has left; ``abort`` does not wait to open it.

    Errors: VssError while the device is in use; then nothing was disconnected.
    """
    for index in netlink.indices_of(backend(attachment.name)):
        if attachment.index in (index, -1):
            usage.refuse_when_used(f"/dev/nbd{index}", attachment.name, look_only=abort)
            netlink.disconnect(index)


def reconnect(attachment: Attachment) -> None:
    """Hands fresh connections to the device. Errors: VssError."""
    with contextlib.ExitStack() as stack:
        sockets, export = _connections(stack, attachment)
        if export.size != netlink.size(attachment.index):
            message = f"the export has {export.size} bytes now, but {attachment.device} has another size: attach anew"
            raise client.NbdError(message)
        netlink.reconfigure(attachment.index, [sock.fileno() for sock in sockets], backend(attachment.name))


def backend(name: str) -> str:
    """The backend identifier of a volume, as ``/sys/block/nbdN/backend`` shows it."""
    return f"shadowset-{name}"


def _connections(stack: contextlib.ExitStack, attachment: Attachment) -> tuple[list[socket.socket], client.Export]:
    """Several sockets where the server promises that they see each other's flushes, otherwise one."""
    first, export = client.connect(attachment.nbd, attachment.export)
    sockets = [stack.enter_context(first)]
    while export.can(client.FLAG_CAN_MULTI_CONN) and len(sockets) < _CONNECTIONS:
        sockets.append(stack.enter_context(client.connect(attachment.nbd, attachment.export)[0]))
    return sockets, export
