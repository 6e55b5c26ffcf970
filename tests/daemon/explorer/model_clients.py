"""Model writers and requesters: what arrives at them is kept, what they answer is the explorer's choice."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from shadowset.daemon.requester_session import CANCELLABLE, RequesterSession
from shadowset.daemon.server import Peer
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code
from shadowset.vss.enums import Attribute, BackupType, Level, WriterEvent
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.writer_protocol import Event, Hello, Reply

if TYPE_CHECKING:
    from model_world import World

PEER = Peer(1, 0, frozenset(), "")
WITH_WRITERS = (rp.GatherWriterMetadata, rp.PrepareForBackup, rp.BackupComplete)
RETRYABLE = int(Code.VSS_E_WRITERERROR_RETRYABLE)


def _guid(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


class ModelWriter:
    """One connected writer. ``told`` is what it heard and what became of it, in order."""

    peer = PEER

    def __init__(self, world: World, number: int, level: Level) -> None:
        self.world = world
        self.name = f"w{number}"
        self.level = level
        self.told: list[tuple[str, str, str]] = []
        self.asked: list[Event] = []
        self.answered: Reply | None = None
        guid = _guid(number)
        window_ms = 60_000 - 35_000 * (number % 2)
        hello = Hello(guid, self.name, instance_id=guid, level=level, freeze_timeout_ms=window_ms)
        self.registered = world.house.registry.register(hello, self)  # type: ignore[arg-type]

    @property
    def connected(self) -> bool:
        return self.registered.link.connected

    def send(self, event: Event) -> None:
        self.world.watch.require(self.connected, f"{self.name} is sent {event.event} after it had gone")
        self.world.watch.told(self, event)
        self.told.append((event.session, event.event.value, "sent"))
        self.asked.append(event)

    def answer(self, how: str) -> None:
        event = self.asked.pop(0)
        self.told.append((event.session, event.event.value, how))
        code = 0 if how == "ok" else RETRYABLE
        reply = Reply(event.seq, code, veto=how == "veto", message="" if how == "ok" else f"{self.name} says no")
        if event.event is WriterEvent.IDENTIFY:
            hello = self.registered.link.hello
            reply.metadata = WriterMetadata(hello.writer_id, hello.instance_id, self.name, level=self.level)
        self.answered = reply
        self.registered.link.reply(reply)

    def again(self) -> None:
        """The last answer once more, and the opposite of it."""
        assert self.answered
        self.told.append(("", "again", ""))
        for veto in (False, True):
            self.registered.link.reply(Reply(self.answered.seq, RETRYABLE if veto else 0, veto=veto))
        self.answered = None

    def lose(self) -> None:
        self.told.append(("", "lost", ""))
        self.asked.clear()
        self.world.house.registry.unregister(self.registered)


class ModelRequester:
    """One requester's connection, that goes through a backup; it may leave, cancel, abort or hang at any point."""

    peer = PEER

    def __init__(self, world: World, number: int, volumes: tuple[str, ...]) -> None:
        self.world = world
        setting = world.setting
        self.name = f"r{number}"
        self.waiting: asyncio.Future[Any] | None = None
        self.seq = 0
        self.current: Any = None
        self.results = [""]
        self.gone = False
        self.script = [
            rp.ServiceHello(0),
            rp.InitializeForBackup(0),
            rp.SetContext(0, setting.context),
            rp.SetBackupState(0, False, False, BackupType.FULL),
            *(rp.EnableWriterClasses(0, [_guid(each) for each in enabled]) for enabled in setting.enabled[number:][:1]),
            rp.GatherWriterMetadata(0),
            rp.StartSnapshotSet(0, wait_ms=1000, volumes=list(volumes) if setting.beside else []),
            *(rp.AddToSnapshotSet(0, volume) for volume in volumes),
            rp.PrepareForBackup(0),
            rp.DoSnapshotSet(0),
            rp.BackupComplete(0),
        ]
        if setting.context & Attribute.NO_WRITERS:
            self.script = [each for each in self.script if not isinstance(each, WITH_WRITERS)]
        self.session = RequesterSession(world.house, world.service, self)  # type: ignore[arg-type]
        self.task = world.loop.create_task(self.session.run())

    @property
    def backup(self) -> Any:
        """The coordinator's session, once there is one."""
        return self.session._session

    @property
    def session_id(self) -> str:
        return self.backup.session_id if self.backup else ""

    @property
    def plan(self) -> Any:
        return self.backup._plan if self.backup else None

    async def receive(self) -> Any:
        self.waiting = self.world.loop.create_future()
        return await self.waiting

    def send(self, message: Any) -> None:
        if self.current is not None and message.seq == self.current.seq and not isinstance(message, rp.Notice):
            self.results.append(f"{type(self.current).__name__} {getattr(message, 'name', 'ok')}")
            self.failed = isinstance(message, rp.CallFailure)
            self.current = None
            if self.failed:
                self.script.clear()

    def _deliver(self, message: Any) -> None:
        assert self.waiting and not self.waiting.done()
        self.waiting.set_result(message)

    def next_call(self) -> None:
        self._call(self.script.pop(0))

    def _call(self, call: Any) -> None:
        self.seq += 1
        call.seq = self.seq
        self.current = call
        self._deliver(call)

    def abort(self) -> None:
        self.script.clear()
        self.results.append("abort")
        self.seq += 1
        self._deliver(rp.AbortBackup(self.seq))

    def cancel(self) -> None:
        self.results.append("cancel")
        self.seq += 1
        self._deliver(rp.Cancel(self.seq, self.current.seq))

    def leave(self) -> None:
        self.gone = True
        self.script.clear()
        self._deliver(None)

    def moves(self) -> list[tuple[str, bool]]:
        """Name of a move, and whether it is what a requester should do next."""
        if self.gone or self.waiting is None or self.waiting.done():
            return []
        found = []
        if self.current is None:
            found.append(("next" if self.script else "leave", True))
        elif isinstance(self.current, CANCELLABLE) and self.results[-1] != "cancel":
            found.append(("cancel", False))
        if self.script or self.current is not None:
            found.append(("leave", False))
            if self.results[-1] != "abort":
                found.append(("abort", False))
        return found
