"""Frames: split anywhere they give the same messages, and whatever a peer sends ends in a message or a FrameError."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowset.vss import provider_protocol, requester_protocol, writer_protocol
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ComponentType, WriterEvent
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata
from shadowset.vss.wire import LENGTH_BYTES, MAX_FRAME, FrameDecoder, FrameError, Message, encode
from shadowset.vss.writer_protocol import Event, FromWriter, Hello, Log, Reply, ToWriter

MESSAGES = [
    Hello("w", "Writer"),
    Reply(
        7,
        metadata=WriterMetadata(
            "w", "i", "n", components=(ComponentInfo(ComponentType.DATABASE, "db", log_files=(FileSet("/l", "*"),)),)
        ),
    ),
    Log("a line \u2192"),
    Reply(8, code=int(Code.VSS_E_WRITERERROR_RETRYABLE), veto=True, message="no"),
]
STREAM = b"".join(encode(message) for message in MESSAGES)


def _decoder(kinds: Any = FromWriter, **options: Any) -> FrameDecoder[Any]:
    return FrameDecoder(kinds, **options)


def _frame(value: Any) -> bytes:
    body = value if isinstance(value, bytes) else msgpack.packb(value)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def test_a_frame_is_what_plain_messagepack_makes() -> None:
    decoder = _decoder()
    assert decoder.feed(_frame({"kind": "hello", "writer_id": "w", "name": "n"})) == [Hello("w", "n")]
    body = encode(Log("x"))[LENGTH_BYTES:]
    assert msgpack.unpackb(body) == {"kind": "log", "text": "x"}


def test_split_in_two_anywhere() -> None:
    for at in range(len(STREAM) + 1):
        decoder = _decoder()
        assert decoder.feed(STREAM[:at]) + decoder.feed(STREAM[at:]) == MESSAGES, f"split after {at} bytes"
        assert decoder.pending == 0


def test_byte_by_byte() -> None:
    decoder = _decoder()
    received = [message for at in range(len(STREAM)) for message in decoder.feed(STREAM[at : at + 1])]
    assert received == MESSAGES


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=10).map(sorted))
def test_split_into_any_pieces(cuts: list[int]) -> None:
    decoder = _decoder()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        received += decoder.feed(STREAM[start:end])
    assert received == MESSAGES


def test_an_unfinished_frame_waits() -> None:
    decoder = _decoder()
    assert decoder.feed(STREAM[:-1]) == MESSAGES[:-1]
    assert decoder.pending == len(encode(MESSAGES[-1])) - 1


@pytest.mark.vss(31)
def test_a_frame_over_the_limit_is_refused_before_it_is_there() -> None:
    decoder = _decoder(limit=100)
    assert decoder.feed(_frame({"kind": "log", "text": "x" * 80}))
    with pytest.raises(FrameError, match="101 bytes is over the limit of 100") as caught:
        decoder.feed((101).to_bytes(LENGTH_BYTES, "big"))
    assert caught.value.code == Code.E_INVALIDARG
    for length in (MAX_FRAME + 1, 2**32 - 1):
        with pytest.raises(FrameError, match="over the limit"):
            _decoder().feed(length.to_bytes(LENGTH_BYTES, "big"))


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(FrameError, match="over the limit"):
        encode(Log("x" * (MAX_FRAME + 1)))


@pytest.mark.vss(31)
def test_unknown_fields_are_ignored() -> None:
    extra = {"kind": "log", "text": "x", "later": {"deep": [1, {"a": None}]}, "more": b"\x00"}
    assert _decoder().feed(_frame(extra)) == [Log("x")]


def test_missing_fields_have_their_defaults() -> None:
    [event] = _decoder(ToWriter).feed(
        _frame({"kind": "event", "seq": 1, "event": "freeze", "session": "s", "deadline_ms": 5})
    )
    assert event == Event(1, WriterEvent.FREEZE, "s", 5)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "explode"},
        {"kind": "event", "seq": 1, "event": "freeze", "session": "s", "deadline_ms": 5},
        {"kind": 3},
        {"kind": None},
        {"text": "no kind"},
        {},
        [],
        "log",
        None,
        {"kind": "log"},
        {"kind": "log", "text": 5},
        {"kind": "hello", "writer_id": "w", "name": "n", "level": 9},
        {"kind": "reply", "seq": "1"},
        {"kind": "reply", "seq": 1, "components": [{"type": 1}]},
        b"",
        b"\xc1",
        b"\x81\xa4kind\xa1\xff",
        msgpack.packb({"kind": "log", "text": "x"}) + b"\x00",
        b"\x83\xa4kind\xa5reply\xa3seq\x01\xaacomponents\xdd\xff\xff\xff\xff",
        b"\x83\xa4kind\xa5reply\xa3seq\x01\xa5extra\xdf\xff\xff\xff\xff",
    ],
)
def test_what_is_no_message_is_refused(value: Any) -> None:
    with pytest.raises(FrameError, match="not a message of this protocol"):
        _decoder().feed(_frame(value))


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"])
@pytest.mark.parametrize("closing", [b"", b"\xc0"])
@pytest.mark.parametrize("field", [b"\xa5value", b"\xa5extra"])
def test_deep_nesting_is_refused(opening: bytes, closing: bytes, field: bytes) -> None:
    body = b"\x83\xa4kind\xa4done\xa3seq\x01" + field + opening * 1_000_000 + closing
    with pytest.raises(FrameError):
        _decoder(provider_protocol.FromProvider).feed(_frame(body))


def test_messages_before_a_bad_frame_can_still_be_had() -> None:
    decoder = _decoder()
    assert decoder.feed(encode(Log("x"))) == [Log("x")]
    with pytest.raises(FrameError):
        decoder.feed(_frame({"kind": "explode"}))


UNIONS = [
    writer_protocol.FromWriter,
    writer_protocol.ToWriter,
    provider_protocol.ToProvider,
    provider_protocol.FromProvider,
]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(UNIONS))
def test_garbage(data: bytes, kinds: Any) -> None:
    for stream in (data, _frame(data)):
        try:
            received = _decoder(kinds, limit=1000).feed(stream)
        except FrameError:
            continue
        assert all(isinstance(message, Message) for message in received)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KINDS = st.sampled_from(["hello", "reply", "progress", "log", "event", "done", "failed", "commit", "describe"])
FIELDS = st.sampled_from(["seq", "code", "metadata", "components", "value", "event", "text", "name", "writer_id"])


@settings(max_examples=300, deadline=None)
@given(KINDS, st.dictionaries(FIELDS, JSON, max_size=6), st.sampled_from(UNIONS))
def test_right_kinds_with_wrong_fields(kind: str, fields: dict[str, Any], kinds: Any) -> None:
    try:
        [message] = _decoder(kinds).feed(_frame({**fields, "kind": kind}))
    except FrameError:
        return
    assert isinstance(message, Message)
    assert _decoder(kinds).feed(encode(message)) == [message]


def test_flipped_bits() -> None:
    source = random.Random(20)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(STREAM)
        damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        try:
            _decoder().feed(bytes(damaged))
        except FrameError:
            refused += 1
    assert refused > 300


def _kinds_of(module: Any) -> list[type[Message]]:
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Message)]
    return [
        cls
        for cls in classes
        if cls.__module__.startswith(module.__name__) and isinstance(cls.__struct_config__.tag, str)
    ]


@pytest.mark.parametrize("module", [writer_protocol, requester_protocol, provider_protocol])
def test_each_kind_has_one_meaning_in_its_protocol(module: Any) -> None:
    tags = [cls.__struct_config__.tag for cls in _kinds_of(module)]
    assert tags
    assert len(set(tags)) == len(tags)


def test_a_frame_error_is_a_vss_error() -> None:
    assert issubclass(FrameError, VssError)
