"""The control socket: the coordinator's calls on one volume, one connection being the owner of a hold."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable

from shadowset.nbd_provider.volume import Volume, parse_id
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code, VssError, code_name
from shadowset.vss.wire import FrameDecoder, FrameError, encode

log = logging.getLogger(__name__)

RECEIVE = 64 * 1024


class ControlClient:
    """One connection to the control socket."""

    def __init__(self, sock: socket.socket, volume: Volume, stop: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.closed = False
        self._volume = volume
        self._stop = stop
        self._decoder: FrameDecoder[m.ToProvider] = FrameDecoder(m.ToProvider)
        self._out: deque[bytes] = deque()

    @property
    def wants_read(self) -> bool:
        """Calls are taken one batch at a time, answers first."""
        return not self._out

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
        try:
            for call in self._decoder.feed(data):
                self._out.append(encode(self._answer(call)))
        except FrameError as error:
            log.warning("a control connection is closed: %s", error)
            self._out.append(encode(m.Failed(0, error.code, code_name(error.code), error.message)))
            self.flush()
            self.close()
            return
        self.flush()

    def _answer(self, call: m.ToProvider) -> m.FromProvider:
        try:
            return m.Done(call.seq, self._do(call))
        except VssError as error:
            return m.Failed(call.seq, error.code, code_name(error.code), error.message)
        except OSError as error:
            log.exception("a control call failed")
            code = Code.VSS_E_INSUFFICIENT_STORAGE if error.errno == 28 else Code.VSS_E_UNEXPECTED
            message = f"volume {self._volume.name}: {error.strerror or error}; look at the provider's log"
            return m.Failed(call.seq, code, code.name, message)

    def _do(self, call: m.ToProvider) -> object:
        volume = self._volume
        match call:
            case m.Describe() | m.Configure() | m.ListEvents() | m.Resize():
                return self._tell(call)
            case m.Hold(timeout_ms=timeout_ms):
                return volume.hold(self, timeout_ms)
            case m.Commit():
                return volume.commit(self, call.copy_id, call.set_id, call.created_ns, call.persistent)
            case m.Release():
                return volume.release(self)
            case m.Finish(copy_id=copy_id):
                volume.store.finish(parse_id(copy_id))
            case m.Delete(copy_id=copy_id):
                volume.delete(copy_id, call.force)
            case m.SetCopy(copy_id=copy_id):
                volume.store.set_copy(parse_id(copy_id), call.priority, call.hold_until_ns)
            case m.Revert(copy_id=copy_id):
                return volume.revert(copy_id)
            case m.CancelRevert(force=force):
                volume.reverter.cancel(force)
            case m.Stop():
                self._stop()
        return None

    def _tell(self, call: m.Describe | m.Configure | m.ListEvents | m.Resize) -> object:
        match call:
            case m.Configure():
                return self._volume.configure(call.max_size, call.policy, call.warn_percent)
            case m.ListEvents(after=after):
                return self._volume.events(after)
            case m.Resize():
                return self._volume.resize()
        return self._volume.describe()

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
