"""What one provider process tells the next when it hands a volume over. Other versions may read it: add, never change.

Data that has come from a client and is not answered goes along, so no client notices that it has another server.
"""

from __future__ import annotations

import msgspec

from shadowset.vss.provider_protocol import EventInfo


class NegotiationState(msgspec.Struct, frozen=True):
    """A negotiation that is under way, or what was agreed in it; ``received`` is an unfinished option."""

    received: bytes = b""
    flags_known: bool = False
    no_zeroes: bool = False
    contexts: list[tuple[int, str]] = []
    contexts_of: bytes = b""
    structured: bool = False


class ConnectionState(msgspec.Struct):
    """An NBD client: what it has sent that is not done, what is to be sent to it, and its export once it has one."""

    received: bytes = b""
    unsent: bytes = b""
    leaving: bool = False
    export: str | None = None
    negotiation: NegotiationState = NegotiationState()


class ControlState(msgspec.Struct):
    """A control connection: an unfinished call, answers that are to be sent, and whether it is to hear of events."""

    received: bytes = b""
    unsent: bytes = b""
    tell: bool = False


class VolumeState(msgspec.Struct):
    """The whole. Descriptors go with it: origin, lock of the storage, both listening sockets, then the clients', NBD
    first. ``since`` (monotonic clock, seconds) is when the last request was taken; ``keep_name`` is for a socket that
    systemd made; ``events`` are those that nobody has heard of yet; ``next_slot`` is the storage's first free one."""

    name: str
    since: float
    next_slot: int
    keep_name: bool
    connections: list[ConnectionState]
    controls: list[ControlState]
    events: list[EventInfo]
