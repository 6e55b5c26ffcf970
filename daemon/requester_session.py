"""One requester's connection: calls in, answers out, in order; the connection is the lease of its session.

Calls run one after another. ``cancel`` and ``abort-backup`` are looked at as soon as they arrive, because they concern
the call that is running.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from shadowset import __version__
from shadowset.daemon.actor import ACTOR, Actor, login_of
from shadowset.daemon.backup_session import BackupSession
from shadowset.daemon.device_layer import serving_pid
from shadowset.daemon.house import House
from shadowset.daemon.registry import canonical_guid
from shadowset.daemon.restore_session import RestoreSession
from shadowset.daemon.sequence import Sequence
from shadowset.daemon.server import Connection
from shadowset.daemon.service_calls import ServiceCalls
from shadowset.daemon.writer_session import WriterSession
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError, code_name
from shadowset.vss.documents import components_to_xml
from shadowset.vss.wire import PROTOCOL_VERSION, FrameError

log = logging.getLogger(__name__)

MAX_QUEUED = 256
CANCELLABLE = (
    rp.GatherWriterMetadata,
    rp.StartSnapshotSet,
    rp.PrepareForBackup,
    rp.GatherWriterStatus,
    rp.DoSnapshotSet,
    rp.BackupComplete,
    rp.PreRestore,
    rp.PostRestore,
)

Handler = Callable[[Any], Awaitable[Any]]
C = TypeVar("C", bound=rp.ComponentCall)


class RequesterSession:
    """Serves one connection."""

    def __init__(
        self, house: House, service: ServiceCalls, connection: Connection[rp.Call], may_delete: bool = True
    ) -> None:
        self._may_delete = may_delete
        self._login = login_of(connection.peer.pid)
        self._house = house
        self._service = service
        self._connection = connection
        self._sequence = Sequence()
        self._queue: list[rp.Call] = []
        self._filled = asyncio.Event()
        self._current: tuple[rp.Call, asyncio.Task[Any]] | None = None
        self._session: WriterSession | None = None
        self._client = ""
        self._idle: asyncio.Handle | None = None
        self._handlers: dict[type[rp.Call], Handler] = {**service.handlers(), **self._own_handlers()}

    async def run(self) -> None:
        """Until the connection ends. Errors: FrameError."""
        worker = asyncio.ensure_future(self._work())
        try:
            await self._listen()
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            self._watch_idle(False)
            if isinstance(self._session, BackupSession | RestoreSession):
                await self._session.close()

    async def _listen(self) -> None:
        limit = self._house.limits.hello_ms / 1000
        try:
            call = await asyncio.wait_for(self._connection.receive(), limit)
        except TimeoutError:
            raise VssError(Code.E_INVALIDARG, "no hello came; the first call of a connection must be hello") from None
        while call is not None:
            self._arrived(call)
            call = await self._connection.receive()

    def _arrived(self, call: rp.Call) -> None:
        if isinstance(call, rp.Cancel):
            self._answer(call, lambda: self._cancel(call.target))
        elif len(self._queue) >= MAX_QUEUED:
            self._fail(call, VssError(Code.E_OUTOFMEMORY, f"{MAX_QUEUED} calls are waiting; read the answers first"))
        else:
            if isinstance(call, rp.AbortBackup):
                self._abort_current()
            self._queue.append(call)
            self._filled.set()
        self._watch_idle(self._current is None and not self._queue)

    async def _work(self) -> None:
        """Serve calls until cancelled.

        A call past its point of no return swallows the cancellation that reaches this task through it, so the task
        looks for itself after each call.
        """
        worker = asyncio.current_task()
        while worker and not worker.cancelling():
            await self._filled.wait()
            self._filled.clear()
            while self._queue and not worker.cancelling():
                await self._serve(self._queue.pop(0))

    async def _serve(self, call: rp.Call) -> None:
        task = asyncio.ensure_future(self._perform(call))
        self._current = (call, task)
        try:
            value = await task
        except VssError as error:
            self._fail(call, error)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            current = asyncio.current_task()
            if current and current.cancelling():
                raise
            self._fail(call, VssError(Code.VSS_S_ASYNC_CANCELLED, "the call was cancelled"))
        except Exception as error:
            log.exception("call %s failed", type(call).__name__)
            self._fail(
                call, VssError(Code.VSS_E_UNEXPECTED, f"an internal error, which the coordinator's log has: {error!r}")
            )
        else:
            self._succeed(call, value)
        finally:
            self._current = None
            self._watch_idle(not self._queue)

    # ---- a requester that hangs while others wait ----

    def _watch_idle(self, idle: bool) -> None:
        """While nobody else can make a set, this requester must go on: from now on, or no longer."""
        if self._idle:
            self._idle.cancel()
            self._idle = None
        if idle and isinstance(self._session, BackupSession) and self._session.has_turn:
            limit = self._house.limits.creation_idle_ms / 1000
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(limit, lambda: self._idle_for(limit))

    def _idle_for(self, seconds: float) -> None:
        """Give up, unless a call has arrived that is read in this turn of the loop."""
        sentence = f"{self._who()} made no call for {seconds:g} s between start-snapshot-set and do-snapshot-set"
        self._idle = asyncio.get_running_loop().call_soon(self._give_up, sentence)

    def _give_up(self, sentence: str) -> None:
        self._idle = None
        self._sequence.abort(f"its backup was aborted, because {sentence}")
        self._house.event("backup-aborted", f"{sentence}; its backup was aborted, so that others can make theirs")
        self._queue.append(rp.AbortBackup(0))
        self._filled.set()

    def _who(self) -> str:
        name = "".join(each if each.isprintable() else "?" for each in self._client[:80])
        return f"{name or 'a requester'} [pid {self._connection.peer.pid}]"

    def _succeed(self, call: rp.Call, value: Any) -> None:
        try:
            self._connection.send(rp.Result(call.seq, value))
        except FrameError as error:
            self._fail(call, VssError(error.code, f"the answer is too long to be sent; ask for less: {error.message}"))

    async def _perform(self, call: rp.Call) -> Any:
        self._sequence.check(call)
        ACTOR.set(Actor(self._connection.peer, self._client, self._may_delete, self._login))
        try:
            value = await self._handlers[type(call)](call)
        except BaseException:
            if isinstance(call, rp.DoSnapshotSet):
                self._sequence.set_failed()
            raise
        self._sequence.done(call)
        return value

    def _answer(self, call: rp.Call, action: Callable[[], None]) -> None:
        try:
            self._sequence.check(call)
            action()
        except VssError as error:
            self._fail(call, error)
        else:
            self._connection.send(rp.Result(call.seq))

    def _fail(self, call: rp.Call, error: VssError) -> None:
        self._connection.send(
            rp.CallFailure(call.seq, int(error.code), code_name(error.code), error.message, error.application_code)
        )

    def _cancel(self, target: int) -> None:
        for waiting in self._queue:
            if waiting.seq == target:
                self._queue.remove(waiting)
                self._fail(waiting, VssError(Code.VSS_S_ASYNC_CANCELLED, "the call was cancelled before it began"))
                return
        if self._current is None or self._current[0].seq != target:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"call {target} is not under way; it may have ended already")
        call, task = self._current
        if not isinstance(call, CANCELLABLE):
            raise VssError(Code.VSS_E_NOT_SUPPORTED, f"call {target} is not one that can be cancelled")
        task.cancel()

    def _abort_current(self) -> None:
        if self._current and isinstance(self._current[0], CANCELLABLE):
            self._current[1].cancel()

    # ---- calls of a session ----

    def _own_handlers(self) -> dict[type[rp.Call], Handler]:
        component_calls = (
            rp.SetBackupOptions,
            rp.SetPreviousBackupStamp,
            rp.SetBackupSucceeded,
            rp.AddRestoreSubcomponent,
            rp.SetRestoreOptions,
            rp.SetAdditionalRestores,
            rp.AddNewTarget,
            rp.SetRangesFilePath,
            rp.SetAuthoritativeRestore,
            rp.SetRestoreName,
            rp.SetRollForward,
            rp.AddAlternativeLocationMapping,
            rp.SetFileRestoreStatus,
        )
        return {
            **dict.fromkeys(component_calls, self._component_call),
            rp.ServiceHello: self._hello,
            rp.InitializeForBackup: self._initialize_for_backup,
            rp.InitializeForRestore: self._initialize_for_restore,
            rp.SetContext: self._set_context,
            rp.SetBackupState: self._set_backup_state,
            rp.SetRestoreState: self._set_restore_state,
            rp.EnableWriterClasses: self._enable_classes,
            rp.DisableWriterClasses: self._disable_classes,
            rp.DisableWriterInstances: self._disable_instances,
            rp.GatherWriterMetadata: self._gather_metadata,
            rp.GatherWriterStatus: self._gather_status,
            rp.AddComponent: self._add_component,
            rp.StartSnapshotSet: self._start_set,
            rp.IsVolumeSupported: self._is_supported,
            rp.AddToSnapshotSet: self._add_volume,
            rp.PrepareForBackup: self._prepare,
            rp.DoSnapshotSet: self._make_set,
            rp.BackupComplete: self._complete,
            rp.AbortBackup: self._abort,
            rp.GetDocument: self._get_document,
            rp.SaveAsXml: self._save_as_xml,
            rp.SetSelectedForRestore: self._select_for_restore,
            rp.SetSelectedForRestoreEx: self._select_for_restore,
            rp.PreRestore: self._pre_restore,
            rp.PostRestore: self._post_restore,
        }

    @property
    def _any(self) -> WriterSession:
        assert self._session is not None
        return self._session

    @property
    def _backup(self) -> BackupSession:
        assert isinstance(self._session, BackupSession)
        return self._session

    @property
    def _restore(self) -> RestoreSession:
        assert isinstance(self._session, RestoreSession)
        return self._session

    async def _hello(self, call: rp.ServiceHello) -> rp.ServiceInfo:
        if call.protocol != PROTOCOL_VERSION:
            raise VssError(
                Code.E_INVALIDARG,
                f"the requester speaks protocol {call.protocol}, this coordinator speaks {PROTOCOL_VERSION}; "
                f"update the older one",
            )
        house, self._client = self._house, call.client
        sessions, writers, volumes = len(house.sessions), len(house.registry), len(house.volumes)
        grace_ms = house.limits.deletion_grace_ms
        counts, devices_pid = (sessions, writers, volumes), serving_pid(house.paths)
        return rp.ServiceInfo(__version__, PROTOCOL_VERSION, os.getpid(), *counts, grace_ms, devices_pid)

    async def _initialize_for_backup(self, call: rp.InitializeForBackup) -> str:
        self._session = BackupSession(self._house, self._service.snapshots)
        return self._session.session_id

    async def _initialize_for_restore(self, call: rp.InitializeForRestore) -> str:
        self._session = RestoreSession(self._house, call.document)
        return self._session.session_id

    async def _set_context(self, call: rp.SetContext) -> None:
        self._backup.set_context(call.context)

    async def _set_backup_state(self, call: rp.SetBackupState) -> None:
        self._backup.set_state(call)

    async def _set_restore_state(self, call: rp.SetRestoreState) -> None:
        self._restore.document.restore_type = call.restore_type

    async def _enable_classes(self, call: rp.EnableWriterClasses) -> None:
        self._any.enable_classes(call.writer_ids)

    async def _disable_classes(self, call: rp.DisableWriterClasses) -> None:
        self._any.disable_classes(call.writer_ids)

    async def _disable_instances(self, call: rp.DisableWriterInstances) -> None:
        self._any.disable_instances(call.instance_ids)

    async def _gather_metadata(self, call: rp.GatherWriterMetadata) -> Any:
        return await self._any.gather_metadata()

    async def _gather_status(self, call: rp.GatherWriterStatus) -> Any:
        return self._any.status()

    async def _add_component(self, call: rp.AddComponent) -> None:
        self._backup.add_component(_canonical(call))

    async def _component_call(self, call: rp.ComponentCall) -> None:
        self._any.change(_canonical(call))

    async def _start_set(self, call: rp.StartSnapshotSet) -> str:
        def tell(ahead: int, sentence: str) -> None:
            self._connection.send(rp.Notice(call.seq, sentence, 0, ahead))

        return await self._backup.start_set(call, self._who(), tell)

    async def _is_supported(self, call: rp.IsVolumeSupported) -> bool:
        return await self._backup.is_supported(call.volume, call.provider_id)

    async def _add_volume(self, call: rp.AddToSnapshotSet) -> str:
        return await self._backup.add_volume(call.volume, call.provider_id)

    async def _prepare(self, call: rp.PrepareForBackup) -> None:
        await self._backup.prepare()

    async def _make_set(self, call: rp.DoSnapshotSet) -> rp.SetRecord:
        return await self._backup.make_set()

    async def _complete(self, call: rp.BackupComplete) -> None:
        await self._backup.complete()

    async def _abort(self, call: rp.AbortBackup) -> None:
        await self._backup.abort()

    async def _get_document(self, call: rp.GetDocument) -> Any:
        return self._any.document

    async def _save_as_xml(self, call: rp.SaveAsXml) -> str:
        return components_to_xml(self._any.document)

    async def _select_for_restore(self, call: rp.SetSelectedForRestore) -> None:
        self._restore.select(_canonical(call))

    async def _pre_restore(self, call: rp.PreRestore) -> None:
        await self._restore.pre_restore()

    async def _post_restore(self, call: rp.PostRestore) -> None:
        await self._restore.post_restore()


def _canonical(call: C) -> C:
    call.writer_id = canonical_guid(call.writer_id) or call.writer_id
    call.instance_id = canonical_guid(call.instance_id) or call.instance_id
    return call
