"""Socket activation: the service manager listens, starts the daemon for the first client, and it may end when idle."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

FIRST = 3


def inherited_sockets(environment: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """The listening Unix sockets that were passed to this process, by the paths that they are bound to.

    The variables are taken out of ``environment``, so that no child believes they are for it.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "0")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, socket.socket] = {}
    for descriptor in range(FIRST, FIRST + int(count)):
        os.set_inheritable(descriptor, False)
        made = socket.socket(fileno=descriptor)
        if made.family == socket.AF_UNIX and isinstance(name := made.getsockname(), str):
            found[name] = made
        else:
            made.close()
    return found
