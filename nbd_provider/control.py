"""The control socket: the coordinator's calls on one volume, one connection being the owner of a hold."""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from collections.abc import Callable
from functools import partial

from shadowset.nbd_provider.handover_state import ControlState
from shadowset.nbd_provider.server import Drain, Server
from shadowset.nbd_provider.store.room import Seen
from shadowset.nbd_provider.volume import Volume, parse_id
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code, VssError, code_name
from shadowset.vss.wire import FrameDecoder, FrameError, encode

log = logging.getLogger(__name__)

RECEIVE = 64 * 1024
MAX_WAITING = 256


class ControlClient:
    """One connection to the control socket."""

    def __init__(self, sock: socket.socket, volume: Volume, server: Server) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.closed = self.paused = False
        self._volume = volume
        self._server = server
        self._decoder: FrameDecoder[m.ToProvider] = FrameDecoder(m.ToProvider)
        self._out: deque[bytes] = deque()
        self._waiting = 0
        self._inherited = b""
        self._tell_after: int | None = None

    @property
    def wants_read(self) -> bool:
        """Calls are taken one batch at a time, answers first, and not without end while the storage is slow."""
        return not self._out and not self.paused and self._waiting < MAX_WAITING

    @property
    def idle(self) -> bool:
        """Whether all calls are answered."""
        return not self._waiting

    @property
    def wants_write(self) -> bool:
        """Whether answers are waiting."""
        return bool(self._out)

    def on_readable(self) -> None:
        """Take calls and answer them."""
        try:
            data = self.sock.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        try:
            for call in self._decoder.feed(data):
                self._take(call)
        except FrameError as error:
            log.warning("a control connection is closed: %s", error)
            self._out.append(encode(m.Failed(0, error.code, code_name(error.code), error.message)))
            self.flush()
            self.close()
            return
        self.flush()

    def _take(self, call: m.ToProvider) -> None:
        """Answer now, or later when the call has to wait for the storage."""
        try:
            if isinstance(call, m.TakeOver):
                self._take_over(call)
                return
            if isinstance(call, m.Describe):
                self._waiting += 1
                self._server.submit_look(self._volume.look, lambda seen: self._finished(call, seen))
                return
            work = self._storage_work(call)
            if work is None:
                self._out.append(encode(m.Done(call.seq, self._do(call))))
        except (VssError, OSError) as error:
            self._out.append(encode(self._failed(call, error)))
            return
        if work is not None:
            self._waiting += 1
            self._volume.calls.add(work, lambda result: self._finished(call, result))

    def _finished(self, call: m.ToProvider, result: object) -> None:
        self._waiting -= 1
        if self.closed:
            return
        if isinstance(call, m.Commit | m.Describe) and not isinstance(result, BaseException):
            try:
                result = self._do(call, result)
            except (VssError, OSError) as error:
                result = error
        failed = isinstance(result, BaseException)
        self._out.append(encode(self._failed(call, result) if failed else m.Done(call.seq, result)))
        self.flush()

    def _failed(self, call: m.ToProvider, error: object) -> m.Failed:
        if isinstance(error, VssError):
            return m.Failed(call.seq, error.code, code_name(error.code), error.message)
        log.error("a control call failed: %s", error, exc_info=error if isinstance(error, Exception) else None)
        number = getattr(error, "errno", None)
        code = Code.VSS_E_INSUFFICIENT_STORAGE if number == errno.ENOSPC else Code.VSS_E_UNEXPECTED
        reason = getattr(error, "strerror", None) or error
        return m.Failed(call.seq, code, code.name, f"volume {self._volume.name}: {reason}; look at the provider's log")

    def _storage_work(self, call: m.ToProvider) -> Callable[[], object] | None:
        """What a call does to the storage, for a thread; None for a call that is to be answered at once."""
        volume = self._volume
        work: Callable[[], object] | None = None
        match call:
            case m.Configure():
                work = partial(volume.configure, call.max_size, call.policy, call.warn_percent)
            case m.Resize():
                work = volume.resize
            case m.Commit() if volume.store.short:
                work = volume.look  # a refusal counts only after another look
            case m.Finish(copy_id=copy_id):
                work = partial(volume.store.finish, parse_id(copy_id), call.attributes)
            case m.Delete(copy_id=copy_id):
                work = partial(volume.delete, copy_id, call.force)
            case m.SetCopy(copy_id=copy_id):
                work = partial(volume.store.set_copy, parse_id(copy_id), call.priority, call.hold_until_ns)
            case m.Revert(copy_id=copy_id):
                work = volume.revert(copy_id)
            case m.CancelRevert(force=force):
                work = partial(volume.reverter.cancel, force)
            case m.Move(storage=storage):
                work = partial(volume.move, storage)
            case m.CancelMove():
                work = volume.mover.cancel
        return work

    def _do(self, call: m.ToProvider, seen: object = None) -> object:
        """What is answered at once, so that no set of copies waits for the storage of one volume; and what is answered
        by the room that was ``seen``."""
        volume = self._volume
        match call:
            case m.Hold(timeout_ms=timeout_ms):
                return volume.hold(self, timeout_ms)
            case m.Commit():
                return volume.commit(self, call.copy_id, call.set_id, call.created_ns, call.persistent)
            case m.Release():
                return volume.release(self)
            case m.Describe():
                return volume.describe(seen if isinstance(seen, Seen) else None)
            case m.ListEvents(after=after):
                found = volume.events(after)
                self._tell_after = (found.events[-1].number if found.events else after) if call.tell else None
                return found
            case m.Stop():
                self._server.stop()
        return None

    def _take_over(self, call: m.TakeOver) -> None:
        """Errors: VssError; later ones are answered here."""

        def failed() -> None:
            message = f"requests to volume {self._volume.name} did not end; look at what its disk does, and try again"
            error = VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message)
            self._out.append(encode(self._failed(call, error)))
            self.flush()

        self._volume.check_handover()
        self._server.drain(Drain(self, failed))

    def tell(self, number: int) -> None:
        """Send word of the latest event, where that was asked for and it is a later one."""
        if self._tell_after is not None and number > self._tell_after:
            self._tell_after = None
            self._out.append(encode(m.Happened(number)))
            self.flush()

    def state(self) -> ControlState:
        """All that another process must know to go on with the socket."""
        return ControlState(self._decoder.rest, b"".join(self._out), self._tell_after is not None)

    @classmethod
    def restored(cls, sock: socket.socket, state: ControlState, volume: Volume, server: Server) -> ControlClient:
        """The connection that another process described; to be resumed."""
        self = cls(sock, volume, server)
        self._out.extend([state.unsent] if state.unsent else [])
        self._inherited = state.received
        self._tell_after = 0 if state.tell else None  # events are counted anew, and those not heard of come first
        return self

    def resume(self) -> None:
        """Go on with what has come before a pause."""
        data, self._inherited = self._inherited, b""
        self._feed(data)

    def flush(self) -> None:
        """Send answers."""
        while self._out and not self.closed:
            try:
                sent = self.sock.send(self._out[0])
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
            else:
                self._out.popleft()

    def close(self) -> None:
        """End it; a hold that it owns ends with it."""
        if not self.closed:
            self.closed = True
            self.sock.close()
            self._volume.gate.drop(self)
