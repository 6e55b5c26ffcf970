"""The writer library: subclass ``Writer``, override what the application needs, and call ``run`` or ``start``.

    class Notes(Writer):
        writer_id = "0d8a2b62-5b0f-4a5d-9d0e-9a3f0d3f6b11"
        name = "Notes Writer"

        def on_identify(self, metadata: MetadataBuilder) -> None:
            metadata.add_component(ComponentType.FILEGROUP, "notes").add_files("/srv/notes", "*")

        def on_freeze(self, event: CurrentEvent) -> None:
            self.notes.lock()

        def on_thaw(self, event: CurrentEvent) -> None:
            self.notes.unlock()

        on_abort = on_thaw

Handlers run one at a time, on a thread of their own, in the order in which the events came. A writer whose
``on_identify`` shares nothing with its other handlers sets ``identify_aside``: then it is answered on a second thread
while one of them takes long, and nobody who asks for the writers has to wait.

A handler refuses (veto) by raising: ``VssError`` with the code and the sentence that the requester shall read; anything
else is reported as VSS_E_WRITERERROR_NONRETRYABLE. ``event.set_failure`` reports a failure and lets the creation go on.

``on_abort`` must undo whatever the other handlers did, in whatever order; the library calls it by itself when thaw does
not come in time or the coordinator is lost (``event.reason`` says why; ``dispatcher.py`` says when exactly).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Level, SourceType, UsageType, WriterEvent
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.paths import Paths
from shadowset.vss.wire import FrameError
from shadowset.vss.writer_protocol import Event, Hello
from shadowset.writers.connection import Connection, RefusedError
from shadowset.writers.current_event import CurrentEvent
from shadowset.writers.dispatcher import Dispatcher, Send
from shadowset.writers.metadata_builder import MetadataBuilder

__all__ = ["CurrentEvent", "MetadataBuilder", "VssError", "Writer", "run_until_signal"]

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
FINAL_REFUSALS = (Code.E_ACCESSDENIED, Code.E_INVALIDARG)
LOG = logging.getLogger("shadowset.writer")


class Writer:
    """Base class of a writer; the class attributes say who it is."""

    writer_id = ""
    name = ""
    instance_name = ""
    major_version = 1
    minor_version = 0
    usage = UsageType.USERDATA
    source = SourceType.OTHER
    level = Level.FRONT_END
    freeze_timeout_ms = 60_000
    identify_aside = False  # on_identify may run beside another handler, on a thread of its own

    def __init__(self, socket_path: str = "") -> None:
        """``socket_path`` is the coordinator's writer socket; found by the environment when empty."""
        if not self.writer_id or not self.name:
            raise VssError(Code.E_INVALIDARG, f"{type(self).__name__} needs the class attributes writer_id and name")
        self.socket_path = socket_path or Paths.from_environment(os.environ).writer_socket
        self.instance_id = ""
        self.failure: VssError | None = None
        self._connection: Connection | None = None
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._dispatcher = Dispatcher(self)
        self._thread: threading.Thread | None = None

    # --- what a subclass overrides

    def on_identify(self, metadata: MetadataBuilder) -> WriterMetadata | None:
        """Describe components, files and restore method; stateless. Return a document, or None to use ``metadata``."""
        return None

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        """What was chosen; slow work may begin."""

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Drain queues, write checkpoints: all that would make freeze long."""

    def on_freeze(self, event: CurrentEvent) -> None:
        """Stop changing data until thaw or abort; be short."""

    def on_thaw(self, event: CurrentEvent) -> None:
        """Go on."""

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        """The copies exist: set stamps and metadata, recover inside the copy."""

    def on_abort(self, event: CurrentEvent) -> None:
        """Undo everything since prepare-backup."""

    def on_backup_complete(self, event: CurrentEvent) -> None:
        """The requester has copied; look at ``backup_succeeded`` of each component."""

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        """The requester is gone; clean up what is left."""

    def on_pre_restore(self, event: CurrentEvent) -> None:
        """Let go of the files of the components that are selected for restore."""

    def on_post_restore(self, event: CurrentEvent) -> None:
        """The files are back: verify and take them into use."""

    # --- running

    @property
    def connected(self) -> bool:
        """Whether a coordinator knows this writer now."""
        return self._connected.is_set()

    def wait_connected(self, seconds: float | None = None) -> bool:
        """Waits until a coordinator knows this writer; False when the time is over."""
        return self._connected.wait(seconds)

    def run(self) -> None:
        """Serves until ``stop``; connects again whenever the coordinator was restarted.

        Errors: RefusedError when the coordinator says that this writer may never connect.
        """
        self._dispatcher.start()
        delay = FIRST_DELAY
        try:
            while not self._stopping.is_set():
                delay = FIRST_DELAY if self._serve_once() else min(delay * 2, LONGEST_DELAY)
                self._stopping.wait(delay)
        finally:
            self._dispatcher.close()

    def start(self) -> None:
        """``run`` on a thread of its own, inside the application's process. A final refusal is left in ``failure``."""
        self._thread = threading.Thread(target=self._run_quietly, name=f"{self.name} connection", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends ``run`` or the thread of ``start``; a frozen application is released by ``on_abort`` first."""
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def running(self) -> bool:
        """Whether the thread of ``start`` is still at work."""
        return self._thread is not None and self._thread.is_alive()

    def _run_quietly(self) -> None:
        try:
            self.run()
        except VssError as error:
            self.failure = error

    def _hello(self) -> Hello:
        return Hello(
            writer_id=self.writer_id,
            name=self.name,
            instance_id=self.instance_id,
            instance_name=self.instance_name,
            level=self.level,
            freeze_timeout_ms=self.freeze_timeout_ms,
        )

    def _serve_once(self) -> bool:
        """One connection from beginning to end; False when there was none."""
        try:
            connection, welcome = Connection.open(self.socket_path, self._hello())
        except RefusedError as error:
            LOG.warning("%s: refused: %s", self.name, error)
            if error.code in FINAL_REFUSALS:
                raise
            return False
        except PermissionError:
            sentence = (
                "%s: user %s may not open %s; run it as another user, or add a rule ('shadowset setup --writer USER') "
                "and restart the coordinator, which reads the rules when it starts"
            )
            LOG.warning(sentence, self.name, os.geteuid(), self.socket_path)
            return False
        except (OSError, VssError) as error:
            LOG.info("%s: no coordinator at %s: %s", self.name, self.socket_path, error)
            return False
        self.instance_id = welcome.instance_id
        self._connection = connection
        self._connected.set()
        LOG.info("%s: registered as %s", self.name, welcome.instance_id)
        try:
            self._receive(connection)
        finally:
            self._connected.clear()
            self._connection = None
            connection.close()
            self._dispatcher.connection_lost()
        return True

    def _receive(self, connection: Connection) -> None:
        while not self._stopping.is_set():
            try:
                message = connection.receive()
            except (OSError, FrameError) as error:
                LOG.warning("%s: the connection broke: %s", self.name, error)
                return
            if message is None:
                LOG.warning("%s: the coordinator closed the connection", self.name)
                return
            if isinstance(message, Event):
                self._dispatcher.deliver(message, self.route(message, connection))

    def route(self, event: Event, connection: Connection) -> Send:
        """The way that the answer to an event takes."""
        return connection.send

    # --- called by the dispatcher

    def identity(self) -> WriterMetadata:
        """The document with nothing but who the writer is."""
        return WriterMetadata(
            writer_id=self.writer_id,
            instance_id=self.instance_id,
            name=self.name,
            instance_name=self.instance_name,
            major_version=self.major_version,
            minor_version=self.minor_version,
            usage=self.usage,
            source=self.source,
            level=self.level,
            freeze_timeout_ms=self.freeze_timeout_ms,
        )

    def handle(self, event: CurrentEvent) -> WriterMetadata | None:
        """Calls the handler of an event."""
        if event.event is WriterEvent.IDENTIFY:
            builder = MetadataBuilder(self.identity())
            document = self.on_identify(builder) or builder.build()
            if not document.components:
                LOG.warning("%s: nothing to protect; check the configuration, and that its application runs", self.name)
            return document
        handlers = {
            WriterEvent.PREPARE_BACKUP: self.on_prepare_backup,
            WriterEvent.PREPARE_SNAPSHOT: self.on_prepare_snapshot,
            WriterEvent.FREEZE: self.on_freeze,
            WriterEvent.THAW: self.on_thaw,
            WriterEvent.POST_SNAPSHOT: self.on_post_snapshot,
            WriterEvent.ABORT: self.on_abort,
            WriterEvent.BACKUP_COMPLETE: self.on_backup_complete,
            WriterEvent.BACKUP_SHUTDOWN: self.on_backup_shutdown,
            WriterEvent.PRE_RESTORE: self.on_pre_restore,
            WriterEvent.POST_RESTORE: self.on_post_restore,
        }
        handlers[event.event](event)
        return None


def signal_came(signals: Sequence[signal.Signals], seconds: float) -> bool:
    """Whether one of these blocked signals comes within the time; a process that was stopped and goes on has none."""
    found = signal.sigtimedwait(signals, seconds)
    return found is not None and found.si_signo in signals


def run_until_signal(*writers: Writer, poll_seconds: float = 0.5) -> None:
    """Runs writers as a process of their own, until SIGTERM or SIGINT; call it before other threads are started.

    The signals are waited for instead of handled: a handler could interrupt the very lock that stopping needs.
    Errors: RefusedError as ``Writer.run``, when one of them may never connect.
    """
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for writer in writers:
        writer.start()
    while all(writer.running for writer in writers) and not signal_came(signals, poll_seconds):
        pass
    for writer in writers:
        writer.stop()
    for writer in writers:
        if writer.failure is not None:
            raise writer.failure
