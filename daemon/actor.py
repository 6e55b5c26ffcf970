"""On whose behalf a call is carried out: who the kernel says it is, for rights and for the record."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from shadowset.daemon.server import Peer
from shadowset.vss.codes import Code, VssError

UNKNOWN_LOGIN = 2**32 - 1
OF_CALLS = frozenset(
    {
        "set-created",
        "set-failed",
        "snapshot-deleted",
        "snapshot-undeleted",
        "snapshot-kept",
        "snapshot-imported",
        "storage-configured",
        "volume-added",
        "volume-removed",
        "volume-attached",
        "volume-detached",
        "volume-resized",
        "provider-registered",
        "provider-unregistered",
    }
)
"""Events that calls cause. Others may happen during a call, or in a task that one began, and are nobody's doing."""


@dataclass(frozen=True)
class Actor:
    """The peer of a connection; ``client`` is what it calls itself, ``login`` the user who logged in, where known."""

    peer: Peer
    client: str
    may_delete: bool
    login: int | None

    def __str__(self) -> str:
        login = f" (logged in as user {self.login})" if self.login not in (None, self.peer.uid) else ""
        name = "".join(each if each.isprintable() else "?" for each in self.client[:80])
        calls_itself = f", which calls itself {name!r}" if name else ""
        return f"user {self.peer.uid}{login}, process {self.peer.pid} {self.peer.executable}{calls_itself}"


ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)
"""Set while a requester's call is carried out."""


def login_of(pid: int) -> int | None:
    """The user who logged in and started this process, also through su and sudo; None where nobody did."""
    try:
        with open(f"/proc/{pid}/loginuid") as file:
            uid = int(file.read())
    except (OSError, ValueError):
        return None
    return None if uid == UNKNOWN_LOGIN else uid


def author(event: str) -> str:
    """Who caused an event that is recorded now; "" for what nobody asked for."""
    actor = ACTOR.get()
    return str(actor) if actor and event in OF_CALLS else ""


def require_may_delete(what: str) -> None:
    """Errors: E_ACCESSDENIED when a rule says that whoever calls may not delete shadow copies."""
    actor = ACTOR.get()
    if actor and not actor.may_delete:
        raise VssError(
            Code.E_ACCESSDENIED,
            f"{what}: a rule in access.d says that user {actor.peer.uid} may not delete shadow copies",
        )
