"""Framing of all local sockets: four bytes of length, most significant first, then one MessagePack map.

The map's ``kind`` names the message. Unknown fields are ignored, unknown kinds are refused. A frame over ``MAX_FRAME``
ends the connection, since nothing that follows it could be trusted.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from shadowset.vss.codes import Code, VssError

MAX_FRAME = 16 * 1024 * 1024
LENGTH_BYTES = 4
PROTOCOL_VERSION = 1

M = TypeVar("M")


class FrameError(VssError):
    """The peer sent something that is not a frame of this protocol."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.E_INVALIDARG, message)


class Message(msgspec.Struct, tag_field="kind"):
    """Base of every message; the tag is the value of ``kind``."""


def encode(message: Message) -> bytes:
    """One message as a frame."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME:
        raise FrameError(f"a message of {len(body)} bytes is over the limit of {MAX_FRAME} bytes")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameDecoder(Generic[M]):
    """Turns a stream of bytes into messages of one union of kinds."""

    def __init__(self, kinds: Any, limit: int = MAX_FRAME) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(kinds)
        self._buffer = bytearray()
        self._limit = limit

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer)

    @property
    def rest(self) -> bytes:
        """The unfinished frame."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[M]:
        """All messages that are complete now.

        Errors: FrameError, after which the stream is of no more use.
        """
        self._buffer += data
        messages: list[M] = []
        while len(self._buffer) >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            if length > self._limit:
                raise FrameError(f"a frame of {length} bytes is over the limit of {self._limit} bytes")
            end = LENGTH_BYTES + length
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[LENGTH_BYTES:end])
            del self._buffer[:end]
            messages.append(self.decode(body))
        return messages

    def decode(self, body: bytes) -> M:
        """One message from the body of a frame."""
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(f"a frame is not a message of this protocol: {error}") from error
