"""The writers that are connected, and what a writer's connection does from hello to its end."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from shadowset import __version__
from shadowset.daemon.express import ExpressLink
from shadowset.daemon.limits import Limits
from shadowset.daemon.server import Connection
from shadowset.daemon.writer_link import WriterLink
from shadowset.daemon.writer_states import WriterProgress
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import WriterState
from shadowset.vss.requester_protocol import WriterStatus
from shadowset.vss.wire import PROTOCOL_VERSION
from shadowset.vss.writer_protocol import FromWriter, Hello, Log, Progress, Reply, Welcome

log = logging.getLogger(__name__)


def canonical_guid(text: str) -> str:
    """A GUID in lower case without braces, or "" when the text is none."""
    try:
        return str(uuid.UUID(text.strip("{}")))
    except ValueError:
        return ""


@dataclass
class WriterHistory:
    """What is known of a writer beyond its connection: components at its latest identify (-1: not asked yet), and how
    long it was frozen the last time (0: never)."""

    components: int = -1
    frozen_ms: float = 0.0


@dataclass
class RegisteredWriter:
    """A connected writer and how its latest session left it."""

    link: WriterLink
    limits: Limits
    progress: WriterProgress = field(default_factory=WriterProgress)
    history: WriterHistory = field(default_factory=WriterHistory)

    def window_ms(self, *wishes: int) -> int:
        """The longest time between freeze and thaw, from its hello, further ``wishes`` and the administrator."""
        hello = self.link.hello
        return self.limits.window(hello.writer_id, hello.freeze_timeout_ms, *wishes)

    def status(self, progress: WriterProgress | None = None, *wishes: int) -> WriterStatus:
        """As the protocol reports it, in this session or the latest one."""
        hello, peer = self.link.hello, self.link.peer
        shown = progress or self.progress
        return WriterStatus(
            writer_id=hello.writer_id,
            instance_id=hello.instance_id,
            name=hello.name,
            state=shown.state if self.link.connected else _lost(shown),
            failure=shown.failure,
            instance_name=hello.instance_name,
            level=hello.level,
            freeze_timeout_ms=hello.freeze_timeout_ms,
            pid=peer.pid,
            uid=peer.uid,
            executable=peer.executable,
            connected=self.link.connected,
            freeze_window_ms=self.window_ms(*wishes),
            components=self.history.components,
            last_frozen_ms=self.history.frozen_ms,
        )


def _lost(progress: WriterProgress) -> WriterState:
    return progress.state if progress.failed is not None else WriterState.UNKNOWN


class Registry:
    """All connected writers, and the express writers."""

    def __init__(
        self,
        limits: Limits,
        express: Callable[[], list[ExpressLink]] = list,
        frozen_ms: Callable[[str, str], float] = lambda _writer_id, _instance_name: 0.0,
    ) -> None:
        """``express`` gives the writers that have no process; ``frozen_ms`` tells a writer's last time."""
        self._limits = limits
        self._frozen_ms = frozen_ms
        self._express = express
        self._writers: dict[tuple[str, str], RegisteredWriter] = {}
        self._silent: dict[ExpressLink, RegisteredWriter] = {}
        self._histories: dict[tuple[str, str], WriterHistory] = {}

    def __len__(self) -> int:
        return len(self._writers)

    def all(self) -> list[RegisteredWriter]:
        """In the order of their registration, and those without a process; one that is connected counts instead."""
        known = self._silent
        self._silent = {link: known.get(link) or RegisteredWriter(link, self._limits) for link in self._express()}
        silent = [
            writer
            for link, writer in self._silent.items()
            if (link.hello.writer_id, link.hello.instance_id) not in self._writers
        ]
        return [*self._writers.values(), *silent]

    def register(self, hello: Hello, connection: Connection[FromWriter]) -> RegisteredWriter:
        """Errors: E_INVALIDARG for a bad hello, VSS_E_WRITER_ALREADY_SUBSCRIBED."""
        _check_hello(hello)
        hello.writer_id = canonical_guid(hello.writer_id)
        hello.instance_id = canonical_guid(hello.instance_id) or hello.instance_id or str(uuid.uuid4())
        key = (hello.writer_id, hello.instance_id)
        if key in self._writers:
            raise VssError(
                Code.VSS_E_WRITER_ALREADY_SUBSCRIBED,
                f"writer {hello.name} with instance id {hello.instance_id} is already connected "
                f"(pid {self._writers[key].link.peer.pid}); use a new instance id for each process",
            )
        writer = RegisteredWriter(WriterLink(hello, connection), self._limits)
        name = (hello.writer_id, hello.instance_name)
        if name not in self._histories:
            self._histories[name] = WriterHistory(frozen_ms=self._frozen_ms(*name))
        writer.history = self._histories[name]
        self._writers[key] = writer
        return writer

    def unregister(self, writer: RegisteredWriter) -> None:
        """The connection has gone."""
        hello = writer.link.hello
        self._writers.pop((hello.writer_id, hello.instance_id), None)
        writer.link.close()

    async def serve(self, connection: Connection[FromWriter]) -> None:
        """One writer's connection, from hello to its end."""
        try:
            first = await asyncio.wait_for(connection.receive(), self._limits.hello_ms / 1000)
        except TimeoutError:
            raise VssError(Code.E_INVALIDARG, "no hello came; the first message of a writer must be hello") from None
        if first is None:
            return
        if not isinstance(first, Hello):
            raise VssError(Code.VSS_E_BAD_STATE, "the first message of a writer must be hello")
        writer = self.register(first, connection)
        try:
            connection.send(Welcome(PROTOCOL_VERSION, first.instance_id, __version__))
            log.info(
                "%s has connected (uid %d, %s)", writer.link.label(), connection.peer.uid, connection.peer.executable
            )
            while (message := await connection.receive()) is not None:
                self._heard(writer, message)
        finally:
            self.unregister(writer)
            log.info("%s has gone", writer.link.label())

    def _heard(self, writer: RegisteredWriter, message: FromWriter) -> None:
        match message:
            case Reply():
                writer.link.reply(message)
            case Log():
                log.info("%s: %s", writer.link.label(), message.text[:1000])
            case Progress():
                log.debug("%s: %d of %d %s", writer.link.label(), message.done, message.total, message.text[:200])
            case Hello():
                raise VssError(Code.VSS_E_WRITER_ALREADY_SUBSCRIBED, "hello may come only once on a connection")


def _check_hello(hello: Hello) -> None:
    if hello.protocol != PROTOCOL_VERSION:
        raise VssError(
            Code.E_INVALIDARG,
            f"the writer speaks protocol {hello.protocol}, this coordinator {PROTOCOL_VERSION}; update the older one",
        )
    if not canonical_guid(hello.writer_id):
        raise VssError(Code.E_INVALIDARG, f"the writer id {hello.writer_id[:60]!r} is not a GUID")
    if not hello.name.strip() or len(hello.name) > 256 or len(hello.instance_id) > 128:
        raise VssError(
            Code.E_INVALIDARG, "a writer needs a name of 1 to 256 characters and an instance id of at most 128"
        )
    if hello.freeze_timeout_ms <= 0:
        raise VssError(
            Code.E_INVALIDARG,
            f"a freeze time-out of {hello.freeze_timeout_ms} ms is not possible; it must be above zero",
        )
