"""The frame of the conversation: the base of calls, the hello, and what the coordinator sends."""

from __future__ import annotations

from typing import Any

from shadowset.vss.wire import PROTOCOL_VERSION, Message


class Call(Message):
    """Base of all calls; ``seq`` ties the answer to it."""

    seq: int


class ServiceHello(Call, tag="hello"):
    """First call of a connection. Result: ServiceInfo."""

    client: str = ""
    protocol: int = PROTOCOL_VERSION


class Cancel(Call, tag="cancel"):
    """Cancel the call with this number; that call then fails with VSS_S_ASYNC_CANCELLED."""

    target: int


class Result(Message, tag="result"):
    """The call succeeded."""

    seq: int
    value: Any = None


class CallFailure(Message, tag="failure"):
    """The call failed; ``name`` is the symbolic name of ``code``."""

    seq: int
    code: int
    name: str
    message: str
    application_code: int = 0


class Notice(Message, tag="notice"):
    """Something worth showing while a call is under way."""

    seq: int
    text: str
    done: int = 0
    total: int = 0
