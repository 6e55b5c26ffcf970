"""The transmission phase of one client: a batch of requests in, replies into the queue.

A batch is the unit: its overwritten chunks are copied out together, its replies leave together. Whatever would wait for
a disk goes to a thread and is answered later, copy-outs too; NBD leaves the order of what is under way free.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.block_status import Context, Extent, first_extents
from shadowset.nbd_provider.copy_queue import Errors
from shadowset.nbd_provider.exports import Export
from shadowset.nbd_provider.random_reads import RandomReads
from shadowset.nbd_provider.reads import Reads
from shadowset.nbd_provider.replies import Replies
from shadowset.nbd_provider.requests import Request, RequestBuffer
from shadowset.nbd_provider.store.shares import share
from shadowset.nbd_provider.threads import Submit, next_turn
from shadowset.nbd_provider.under_way import UnderWay

log = logging.getLogger(__name__)

ZERO_STEP: Final = 4 << 20
TRIM_STEP: Final = 256 << 20
TURN_SECONDS: Final = 0.05
"""After so long a batch makes no further such step before others have had their turn."""
MAX_HELD: Final = share(64 << 20, least=1 << 20)
LATE_GROUP: Final = 4
MOST_PLAIN: Final = 256
"""Plain requests are done, more or less, before answers go out."""
MODIFYING: Final = (p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES)


def allowed_flags(export_flags: int, structured: bool) -> dict[int, int]:
    """The flags that each command may carry after what was negotiated."""
    fua = p.CMD_FLAG_FUA if export_flags & p.FLAG_SEND_FUA else 0
    fast = p.CMD_FLAG_FAST_ZERO if export_flags & p.FLAG_SEND_FAST_ZERO else 0
    return dict.fromkeys(p.CMD_NAMES, fua) | {
        p.CMD_READ: fua | (p.CMD_FLAG_DF if structured else 0),
        p.CMD_WRITE_ZEROES: fua | p.CMD_FLAG_NO_HOLE | fast,
        p.CMD_BLOCK_STATUS: fua | p.CMD_FLAG_REQ_ONE,
    }


Action = Callable[["Transmission", Request], None]


class Transmission:
    """One client of one export.

    ``answered`` is called when threads have put replies into the queue, ``broken`` when one can never be answered, and
    ``send`` when replies need not wait for the rest of their batch.
    """

    def __init__(
        self,
        export: Export,
        contexts: Sequence[tuple[int, Context]],
        replies: Replies,
        submit: Submit,
        answered: Callable[[], None],
        broken: Callable[[], None],
        send: Callable[[], object],
        random_reads: RandomReads | None = None,
    ) -> None:
        self._export = export
        self._contexts = contexts
        self._replies = replies
        self._answered = answered
        self._broken = broken
        self._send = send
        self._allowed = allowed_flags(export.flags, replies.structured)
        self._held: deque[Request] = deque()
        self._held_bytes = self._waiting_bytes = 0
        self._under_way = UnderWay(submit, self._failed, self._after)
        self._reads = Reads(export, replies, self._under_way, self._allowed[p.CMD_READ], random_reads)
        self.most_answer = self._reads.most_answer
        self._steps, self._until = 0, 0.0
        self._later: list[Request] = []
        self.leaving = False

    @property
    def export_name(self) -> str:
        """What the client has."""
        return self._export.name

    @property
    def idle(self) -> bool:
        """Whether no request is under way or held."""
        return not self._under_way.count and not self._held

    @property
    def full(self) -> bool:
        """Whether enough is under way or held for this client."""
        return self._under_way.full or self._held_bytes + self._waiting_bytes >= MAX_HELD

    def do_plain(self, buffer: RequestBuffer) -> bool:
        """Do what stands at the front and is quite usual, in runs; returns whether there may be more of it."""
        room = MOST_PLAIN
        while room > 0:
            kind, done = buffer.front, 0
            if kind == p.CMD_READ:
                done = self._reads.read_random(buffer)
            elif kind == p.CMD_WRITE:
                done = self._write_plain(buffer)
            if not done:
                return False
            room -= done
        return True

    def _write_plain(self, buffer: RequestBuffer) -> int:
        """Do what only has to be written; returns how many requests."""
        writes, gate = self._export.plain_writes, self._export.gate
        if writes is None or gate is None or gate.closed:
            return 0
        replies = buffer.pass_on(writes.do)
        self._replies.raw(replies)
        return len(replies) // p.SIMPLE_REPLY.size

    def process(self, batch: list[Request]) -> None:
        """Do the requests; after a disconnect ``leaving`` is set."""
        gate = self._export.gate
        if gate is not None and gate.closed:
            batch = self._hold(batch)
        self._steps, self._until = 0, time.monotonic() + TURN_SECONDS
        batch, late = self._split(batch)
        self._do_all(self._reads.together(batch) if self._export.flags & p.FLAG_READ_ONLY else batch)
        self._do_late(late, bool(self._replies))
        self._reads.start_cold()
        if self._later and not self._under_way.closed:
            self._go_on_later()

    def _do_all(self, batch: list[Request]) -> None:
        actions, allowed = self._actions, self._allowed
        size = self._export.size
        for request in batch:
            kind, flags, cookie, offset, length, _ = request
            if kind == p.CMD_DISC:
                self.leaving = True
                return
            if kind in actions and not flags & ~allowed[kind] and length and offset + length <= size:
                self._do(actions[kind], request)
            elif kind == p.CMD_FLUSH and not flags & ~allowed[kind]:
                self._do(Transmission._flush, request)
            else:
                self._refuse(cookie, *self._problem(request))

    def _do(self, action: Action, request: Request) -> None:
        try:
            action(self, request)
        except OSError as error:
            self._failed(request, error)

    def _failed(self, request: Request, error: BaseException) -> None:
        number = getattr(error, "errno", None)
        reason = getattr(error, "strerror", None) or str(error)
        what = f"{p.CMD_NAMES[request.kind]} of {request.length} bytes at byte {request.offset}"
        log.error("%s: %s failed: %s", self._export.name, what, error)
        self._refuse(request.cookie, p.wire_error(number), f"{self._export.description}: {what} failed: {reason}")

    def _refuse(self, cookie: int, number: int, sentence: str) -> None:
        self._replies.error(cookie, number, sentence)

    def _problem(self, request: Request) -> tuple[int, str]:
        """Error and sentence for a request that cannot be right."""
        kind, flags, _, offset, length, _ = request
        export = self._export
        invalid, full = p.ERRORS[errno.EINVAL], p.ERRORS[errno.ENOSPC]
        if kind not in self._actions:
            return invalid, f"this server does not know the command {kind}"
        name = p.CMD_NAMES[kind]
        if flags & ~self._allowed[kind]:
            return invalid, f"{name} was sent with flags 0x{flags:x}, which it cannot have here"
        if kind in MODIFYING and export.flags & p.FLAG_READ_ONLY:
            return p.ERRORS[errno.EPERM], f"{export.description} is read-only"
        if offset + length > export.size:
            number = full if kind in (p.CMD_WRITE, p.CMD_WRITE_ZEROES) else invalid
            return number, f"{name} of {length} bytes at byte {offset} goes beyond the end at byte {export.size}"
        return invalid, f"{name} of no bytes means nothing; ask for one at least"

    # ---- the gate ----

    def _hold(self, batch: list[Request]) -> list[Request]:
        """Put changes aside until the gate opens; returns the others."""
        passing = []
        gate = self._export.gate
        assert gate is not None
        for request in batch:
            if request.kind in MODIFYING:
                self._held.append(request._replace(data=memoryview(bytes(request.data))))
                self._held_bytes += p.REQUEST.size + len(request.data)
                gate.waiting += 1
            else:
                passing.append(request)
        return passing

    def release_held(self) -> bool:
        """The gate is open: do what was put aside; returns whether there was anything."""
        batch = list(self._held)
        self._held.clear()
        self._held_bytes = 0
        if batch and not self._under_way.closed:
            self.process(batch)
        return bool(batch)

    # ---- commands ----

    def _split(self, batch: list[Request]) -> tuple[list[Request], list[Request]]:
        """Requests to do at once, and writes whose old data has to be kept first."""
        export = self._export
        if export.flags & p.FLAG_READ_ONLY:
            return batch, []
        size = export.size
        writes = [each for each in batch if each[0] == p.CMD_WRITE and each[4] and each[3] + each[4] <= size]
        late = [writes[index] for index in export.unkept([each[3:5] for each in writes])] if writes else writes
        if not late:
            return batch, []
        found = set(map(id, late))
        return [each for each in batch if id(each) not in found], late

    def _do_late(self, writes: list[Request], others: bool) -> None:
        """A few at a time, so that the client has answers to go on with, in place of waiting for all old data."""
        waiting: list[Request] = []
        for start in range(0, len(writes), LATE_GROUP):
            group = writes[start : start + LATE_GROUP]
            if start or others:
                self._send()
                if self._under_way.closed:
                    return
            if self._export.may_write([(each.offset, each.length) for each in group]):
                self._do_all(group)
            else:
                waiting += group
        if waiting:
            self._copy_out_first([each._replace(data=memoryview(bytes(each.data))) for each in waiting])

    def _copy_out_first(self, requests: list[Request]) -> None:
        """Do the requests when their old data is kept; a gate that was closed meanwhile holds them."""
        count = sum(p.REQUEST.size + len(request.data) for request in requests)

        def done(errors: Errors) -> None:
            self._waiting_bytes -= count
            self._come_back(requests, errors)

        self._under_way.count += 1
        self._waiting_bytes += count
        ranges = [
            (each.offset, min(each.length, ZERO_STEP) if each.kind == p.CMD_WRITE_ZEROES else each.length)
            for each in requests
        ]
        self._export.copy_out(ranges, done)

    def _go_on_later(self) -> None:
        """Do what is left of large requests in another turn of the loop."""
        requests, self._later = self._later, []
        errors: Errors = [None] * len(requests)
        self._under_way.count += 1
        next_turn(self._under_way.submit, lambda: self._come_back(requests, errors))

    def _come_back(self, requests: list[Request], errors: Errors) -> None:
        self._under_way.count -= 1
        if self._under_way.closed:
            self._let_go()
            return
        try:
            self._go_on(requests, errors)
        except Exception:
            self._broken()
            raise
        self._answered()

    def _go_on(self, requests: list[Request], errors: Errors) -> None:
        for request, error in zip(requests, errors, strict=True):
            if error is not None:
                self._failed(request, error)
        self.process([request for request, error in zip(requests, errors, strict=True) if error is None])

    def _read(self, request: Request) -> None:
        self._reads.read(request)

    def _write(self, request: Request) -> None:
        self._export.write(request.offset, request.data)
        self._changed(request)

    def _has_turn(self, request: Request, offset: int) -> bool:
        """Whether there is time for a step of the request, as there is for one at least; if not, it is gone on with
        later at ``offset``."""
        self._steps += 1
        if self._steps == 1 or time.monotonic() < self._until:
            return True
        self._later.append(request._replace(offset=offset, length=request.offset + request.length - offset))
        return False

    def _trim(self, request: Request) -> None:
        offset, end = request.offset, request.offset + request.length
        while offset < end:
            if not self._has_turn(request, offset):
                return
            step = min(TRIM_STEP - offset % TRIM_STEP, end - offset)
            self._export.trim(offset, step)
            offset += step
        self._changed(request)

    def _zero(self, request: Request) -> None:
        """In steps, so that copying out a large range never needs large memory; after a wait the rest is a request."""
        may_punch = not request.flags & p.CMD_FLAG_NO_HOLE
        fast = bool(request.flags & p.CMD_FLAG_FAST_ZERO)
        offset, end = request.offset, request.offset + request.length
        if fast and not self._export.zeroes_fast(may_punch):
            self._not_fast(request)
            return
        while offset < end:
            if not self._has_turn(request, offset):
                return
            step = min(ZERO_STEP, end - offset)
            if not self._export.may_write([(offset, step)]):
                self._copy_out_first([request._replace(offset=offset, length=end - offset)])
                return
            if not self._export.zero(offset, step, may_punch, fast):
                self._not_fast(request)
                return
            offset += step
        self._changed(request)

    def _not_fast(self, request: Request) -> None:
        sentence = f"{self._export.description}: zeroing here is no faster than writing zeros; leave the flag out"
        self._refuse(request.cookie, p.ERRORS[errno.EOPNOTSUPP], sentence)

    def _changed(self, request: Request) -> None:
        if request.flags & p.CMD_FLAG_FUA:
            self._flush(request)
        else:
            self._replies.done(request.cookie)

    def _flush(self, request: Request) -> None:
        self._under_way.run(request, self._export.flush, self._reply_done)

    def _cache(self, request: Request) -> None:
        self._under_way.run(request, partial(self._reads.fetch, request.offset, request.length), self._reply_done)

    def _reply_done(self, request: Request, _: Any) -> None:
        self._replies.done(request.cookie)

    def _status(self, request: Request) -> None:
        if not self._contexts:
            sentence = "block status needs a metadata context; select one before the export"
            self._refuse(request.cookie, p.ERRORS[errno.EINVAL], sentence)
            return
        one = bool(request.flags & p.CMD_FLAG_REQ_ONE)

        def work() -> list[tuple[int, list[Extent]]]:
            return [
                (number, first_extents(context.extents(request.offset, request.length), one))
                for number, context in self._contexts
            ]

        self._under_way.run(request, work, self._reply_status)

    def _reply_status(self, request: Request, answers: list[tuple[int, list[Extent]]]) -> None:
        self._replies.status(request.cookie, answers)

    _actions: ClassVar[dict[int, Action]] = {
        p.CMD_READ: _read,
        p.CMD_WRITE: _write,
        p.CMD_FLUSH: _flush,
        p.CMD_TRIM: _trim,
        p.CMD_CACHE: _cache,
        p.CMD_WRITE_ZEROES: _zero,
        p.CMD_BLOCK_STATUS: _status,
    }

    # ---- the end ----

    def _after(self) -> None:
        """Replies were put into the queue, or nobody waits for them any more."""
        if self._under_way.closed:
            self._let_go()
        else:
            self._answered()

    def close(self) -> None:
        """The client is gone; files are closed when no thread uses them any more."""
        self._under_way.closed = True
        self._held.clear()
        self._let_go()

    def _let_go(self) -> None:
        if not self._under_way.count:
            self._under_way.forget()
            self._export.close()
            for _, context in self._contexts:
                context.close()
