"""The names of a restore's temporary files, which stay when it is killed: no backup takes them, a later restore clears.

``PREFIX token-N`` is a file on its way to its place, ``PREFIX token-stale-N`` one that was moved aside to be removed.
``PENDING token-N`` is one that takes its place at the next boot; no restore clears it before.
"""

from __future__ import annotations

import re
import secrets

PREFIX = ".shadowset-restore-"
PENDING = ".shadowset-pending-"
_NAME = re.compile(re.escape(PREFIX) + "[0-9a-f]{8}-(stale-)?[0-9]+")
_PENDING = re.compile(re.escape(PENDING) + "[0-9a-f]{8}-[0-9]+")


def new_token(pending: bool = False) -> str:
    """What the names of one restore of one component begin with."""
    return (PENDING if pending else PREFIX) + secrets.token_hex(4)


def is_leftover(name: str) -> bool:
    """Whether a file of this name is one of a restore's temporary files, of no use once that restore has ended."""
    return _NAME.fullmatch(name) is not None


def is_temporary(name: str) -> bool:
    """Whether it is nobody's file, but one of a restore's."""
    return is_leftover(name) or is_pending(name)


def is_pending(name: str) -> bool:
    """Whether it waits for the next boot."""
    return _PENDING.fullmatch(name) is not None


def is_moved_aside(name: str) -> bool:
    """Whether it was a file of the component before: to be kept until the component is restored."""
    found = _NAME.fullmatch(name)
    return found is not None and found.group(1) is not None
