"""The setting that a writer changed for the hold, put back in place of one that died or hangs.

The pause ends by itself; a setting does not, and a server that never rewrites its append-only file fills its disk.
"""

from __future__ import annotations

import logging
import os
import sys

import msgspec

from shadowset.vss.codes import VssError
from shadowset.writers.guard import guard, insist
from shadowset.writers.redis.server import REWRITE, REWRITE_NEVER, Server
from shadowset.writers.redis.settings import RedisServer

LOG = logging.getLogger("shadowset.writer.redis")
REST_SECONDS = 1.0
PATIENCE_SECONDS = 600.0


class Changed(msgspec.Struct):
    """A server whose setting may be changed, and what it was."""

    settings: RedisServer
    value: str


def put_back(line: bytes) -> None:
    """Puts the setting in ``line`` back, again and again until the server takes it, or has ended."""
    changed = msgspec.json.decode(line, type=Changed)
    for left in insist([changed], is_back, REST_SECONDS, PATIENCE_SECONDS):
        LOG.error("%s of %s may still be %s; set it to %s", REWRITE, left.settings.socket, REWRITE_NEVER, left.value)


def is_back(changed: Changed) -> bool:
    """One try. What somebody else has set meanwhile stays."""
    if not os.path.exists(changed.settings.socket):
        return True  # it will read its own configuration
    try:
        server = Server(changed.settings)
        try:
            if server.setting(REWRITE) == REWRITE_NEVER:
                server.ask("putting its settings back", "CONFIG", "SET", REWRITE, changed.value)
        finally:
            server.close()
    except VssError as error:
        LOG.warning("%s: it is tried again", error.message)
        return False
    return True


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    sys.exit(guard(put_back))
