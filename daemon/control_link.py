"""The control connection to one volume's provider process: calls out, answers back by number.

The connection owns the provider's hold, so it is opened once and kept; when the coordinator dies the kernel closes it
and writes flow again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import (
    CancelMove,
    Commit,
    Committed,
    Configure,
    Delete,
    Describe,
    Done,
    Events,
    Failed,
    Finish,
    FromProvider,
    Happened,
    Held,
    Hold,
    ListEvents,
    Move,
    MoveInfo,
    Release,
    Released,
    Resize,
    Revert,
    RevertInfo,
    SetCopy,
    Stop,
    ToProvider,
    VolumeDescription,
)
from shadowset.vss.wire import FrameDecoder, FrameError, encode

R = TypeVar("R")


class ControlLink:
    """One connection. ``lost`` is set when it has gone; it never comes back to life."""

    def __init__(
        self, volume: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_ms: int
    ) -> None:
        self.volume = volume
        self.lost = asyncio.Event()
        self.happened: Callable[[], None] = lambda: None
        """Called when the provider sends word of an event; each ``list_events`` asks for that once."""
        self._writer = writer
        self._timeout_ms = timeout_ms
        self._next = 1
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._task = asyncio.ensure_future(self._read(reader))

    @classmethod
    async def open(cls, volume: str, path: str, timeout_ms: int) -> ControlLink:
        """Connect. Errors: OSError when nobody accepts."""
        reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), timeout_ms / 1000)
        return cls(volume, reader, writer, timeout_ms)

    async def describe(self) -> VolumeDescription:
        """The volume as its provider sees it."""
        return await self._call(Describe(self._seq()), VolumeDescription)

    async def hold(self, timeout_ms: int) -> Held:
        """Hold writes."""
        return await self._call(Hold(self._seq(), timeout_ms), Held, timeout_ms)

    async def commit(self, copy_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        """Make the cut."""
        return await self._call(Commit(self._seq(), copy_id, set_id, created_ns, persistent), Committed)

    async def release(self) -> Released:
        """Let writes flow."""
        return await self._call(Release(self._seq()), Released)

    async def finish(self, copy_id: str, attributes: int = 0) -> None:
        """A pending copy belongs to a set that exists; its ``attributes`` are kept with it."""
        await self._call(Finish(self._seq(), copy_id, attributes), None)

    async def delete(self, copy_id: str) -> None:
        """Delete a copy, also one that is held: whether it may go is the coordinator's business."""
        await self._call(Delete(self._seq(), copy_id, force=True), None)

    async def configure(self, max_size: int | None, policy: str | None, warn_percent: int | None) -> VolumeDescription:
        """Other limits of the shadow storage, where not None."""
        return await self._call(Configure(self._seq(), max_size, policy, warn_percent), VolumeDescription)

    async def set_copy(self, copy_id: str, priority: int | None, hold_until_ns: int | None) -> None:
        """Another priority and retention of a copy, where not None."""
        await self._call(SetCopy(self._seq(), copy_id, priority, hold_until_ns), None)

    async def list_events(self, after: int) -> Events:
        """What has happened since the event with that number; the next one is told by ``happened``."""
        return await self._call(ListEvents(self._seq(), after, tell=True), Events)

    async def revert(self, copy_id: str) -> RevertInfo:
        """Start to take the volume back to a copy, or let a stopped revert go on."""
        return await self._call(Revert(self._seq(), copy_id), RevertInfo)

    async def resize(self) -> VolumeDescription:
        """Take in what the origin has gained."""
        return await self._call(Resize(self._seq()), VolumeDescription)

    async def move(self, storage: str) -> MoveInfo:
        """Start to move the shadow storage."""
        return await self._call(Move(self._seq(), storage), MoveInfo)

    async def cancel_move(self) -> None:
        """Give up a move."""
        await self._call(CancelMove(self._seq()), None)

    async def stop(self) -> None:
        """End the process cleanly."""
        await self._call(Stop(self._seq()), None)

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _seq(self) -> int:
        seq, self._next = self._next, self._next + 1
        return seq

    async def _call(self, call: ToProvider, kind: type[R] | None, timeout_ms: int = 0) -> R:
        name = str(call.__struct_config__.tag)
        if self.lost.is_set():
            raise self._gone(name)
        future = asyncio.get_running_loop().create_future()
        self._waiting[call.seq] = future
        try:
            self._writer.write(encode(call))
            value = await asyncio.wait_for(future, (timeout_ms or self._timeout_ms) / 1000)
            return msgspec.convert(value, kind)
        except TimeoutError:
            limit = timeout_ms or self._timeout_ms
            code = Code.VSS_E_HOLD_WRITES_TIMEOUT if timeout_ms else Code.VSS_E_UNEXPECTED_PROVIDER_ERROR
            raise VssError(
                code,
                f"the provider of volume {self.volume} did not answer {name} within {limit} ms: the host or the disk "
                f"of its storage is slow; try again, and look at its provider.log",
            ) from None
        except msgspec.ValidationError as error:
            sentence = f"the provider of volume {self.volume} answered {name} with something else: {error}"
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, sentence) from None
        finally:
            self._waiting.pop(call.seq, None)

    def _gone(self, name: str) -> VssError:
        sentence = f"the provider of volume {self.volume} has gone during {name}; see its log beside its sockets"
        return VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, sentence)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder: FrameDecoder[FromProvider] = FrameDecoder(FromProvider)
        try:
            while data := await reader.read(65536):
                for message in decoder.feed(data):
                    self._answered(message)
        except (OSError, FrameError):
            pass
        finally:
            self.lost.set()
            self._writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._gone("a call"))

    def _answered(self, message: FromProvider) -> None:
        if isinstance(message, Happened):
            self.happened()
            return
        future = self._waiting.get(message.seq)
        if future is None or future.done():
            return
        if isinstance(message, Done):
            future.set_result(message.value)
        elif isinstance(message, Failed):
            future.set_exception(VssError(message.code, f"volume {self.volume}: {message.message}"))
