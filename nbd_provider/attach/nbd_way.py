"""The way through the kernel: ``/dev/nbdN``, connected over netlink to a socket that is negotiated here.

One connection, even where the server allows several. With more, the kernel takes a request that is older than its
timer for the sign of a dead connection, and nothing brings a connection back that was merely slow. With one and no
NBD timeout, the timer only repeats what was sent on a connection that has been replaced since. So that timer decides
how soon after a reconnect the requests that were under way go on, and we shorten it.
"""

from __future__ import annotations

import math
import os

from shadowset.nbd_provider.attach import client, netlink, usage
from shadowset.nbd_provider.attach.state import Attachment
from shadowset.nbd_provider.store.shares import HOST, LITTLE

_REPEAT_MS = 1000
"""A request that takes longer leaves a line in the kernel's log each time, so not much less."""
_SMALL_REQUEST_KIB = 256


def attach(attachment: Attachment, dead_time: float) -> None:
    """Fills in ``device`` and ``index`` of ``attachment``.

    Errors: VssError; what is there by then is found and removed by ``clean``.
    """
    sock, export = client.connect(attachment.nbd, attachment.export)
    with sock:
        attachment.index = netlink.connect(
            sock.fileno(),
            export.size,
            export.sector_size,
            export.flags,
            math.ceil(dead_time),
            backend(attachment.name),
        )
    netlink.set_timer(attachment.index, _REPEAT_MS)
    if HOST < LITTLE:
        netlink.set_queue(attachment.index, "max_sectors_kb", _SMALL_REQUEST_KIB)
    attachment.device = netlink.wait_for(attachment.index, export.size)
    os.close(os.open(attachment.device, os.O_RDONLY | os.O_CLOEXEC))  # lets the kernel look for partitions


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
    """Hands a fresh connection to the device. Errors: VssError."""
    sock, export = client.connect(attachment.nbd, attachment.export)
    with sock:
        if export.size < netlink.size(attachment.index):  # one that has grown is fine, the device keeps its size
            message = f"the export has {export.size} bytes now, and {attachment.device} has more: attach anew"
            raise client.NbdError(message)
        netlink.reconfigure(attachment.index, sock.fileno(), backend(attachment.name))


def resize(attachment: Attachment, size: int) -> None:
    """Lets the device grow to ``size`` bytes, which the export has by now. Errors: VssError."""
    netlink.resize(attachment.index, size, backend(attachment.name))
    netlink.wait_for(attachment.index, size)


def backend(name: str) -> str:
    """The backend identifier of a volume, as ``/sys/block/nbdN/backend`` shows it."""
    return f"shadowset-{name}"
