"""Reads of one client: from memory at once, from the page cache without copying, from a disk in threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.cold_reads import NEAR, Stream, read_group
from shadowset.nbd_provider.cold_reads import Result as ReadResult
from shadowset.nbd_provider.exports import Export
from shadowset.nbd_provider.page_cache import PageCache, fetch
from shadowset.nbd_provider.random_reads import RandomReads, Result
from shadowset.nbd_provider.replies import Piece, Replies
from shadowset.nbd_provider.requests import MAX_ANSWER, Request, RequestBuffer, adjoining_reads
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.under_way import UnderWay

SMALL: Final = 64 * 1024
"""Less than this is copied, and read in groups where a disk must be waited for."""
READS_PER_THREAD: Final = 16
MOST_TOGETHER: Final = 512 * 1024
MOST_STREAMED: Final = 4 << 20
STREAM_PIECE: Final = 512 * 1024
"""As much of what is streamed as stays in the processor's cache from its reading to its sending."""


class Reads:
    """What ``Transmission`` does for reads. ``allowed`` are the flags that a read may carry."""

    def __init__(
        self,
        export: Export,
        replies: Replies,
        under_way: UnderWay,
        allowed: int,
        random_reads: RandomReads | None = None,
    ) -> None:
        self._random = random_reads
        self._export = export
        self._replies = replies
        self._under_way = under_way
        self._allowed = allowed
        streams = export.sender is not None and export.sender.sends and replies.sends_files
        self._sender = export.sender if streams else None
        self._cache = export.page_cache if replies.sends_files else None
        self.most_answer = MOST_STREAMED if streams else MAX_ANSWER
        """A batch ends when its reads ask for so many bytes."""
        self._cold: list[Request] = []
        self._stream = Stream()

    def read(self, request: Request) -> None:
        """Answer it now, or by a thread; what is small waits for ``start_cold``. Errors: OSError."""
        _, flags, cookie, offset, length, _ = request
        if length > p.MAXIMUM_PAYLOAD:
            error = p.ERRORS[errno.EOVERFLOW if flags & p.CMD_FLAG_DF else errno.EINVAL]
            self._replies.error(cookie, error, f"a read of {length} bytes is over the limit of {p.MAXIMUM_PAYLOAD}")
            return
        self._stream.saw(offset, length)
        if self._from_memory(request):
            return
        if length < SMALL:
            self._stream.missed()
            self._cold.append(request)
        else:
            if self._cache is None:
                self._stream.missed()  # the kernel reads ahead by itself in what is fetched in one piece
            self._under_way.run(request, partial(self._wait_for, request, self._cache), self._reply)

    def _from_memory(self, request: Request) -> bool:
        _, flags, cookie, offset, length, _ = request
        whole = bool(flags & p.CMD_FLAG_DF)
        cache = self._cache
        if (
            cache is not None
            and length >= SMALL
            and cache.holds(offset, length)
            and (whole or not self._replies.structured or not cache.may_be_zero)
        ):
            self._replies.file(cookie, offset, length, cache)
            return True
        target = self._replies.space.take(length)
        if self._export.read_now(offset, target):
            self._replies.data(cookie, offset, target, whole)
            return True
        self._replies.space.give_back()
        return False

    # ---- large reads that miss ----

    def _wait_for(self, request: Request, cache: PageCache | None) -> bytes | list[Piece] | None:
        """Runs in a thread. None when the bytes are in the page cache now, from where they need no copying."""
        offset, length = request.offset, request.length
        if self._replies.structured and not request.flags & p.CMD_FLAG_DF:
            ranges = list(self._export.ranges(offset, offset + length))
            if cache is None or ranges != [(offset, offset + length)]:
                return self._sparse(offset, offset + length, ranges)
        elif cache is None:
            return self._export.read(offset, length)
        fetch(cache.fd, offset, length)
        return None

    def _sparse(self, offset: int, end: int, ranges: Iterable[tuple[int, int]]) -> list[Piece]:
        """Data and holes, the holes without reading them."""
        pieces: list[Piece] = []
        for start, stop in ranges:
            if start > offset:
                pieces.append((offset, start - offset, None))
            pieces.append((start, stop - start, self._export.read(start, stop - start)))
            offset = stop
        if offset < end:
            pieces.append((offset, end - offset, None))
        return pieces

    def _reply(self, request: Request, result: bytes | list[Piece] | None) -> None:
        if result is None:
            self._reply_fetched(request)
        elif isinstance(result, bytes):
            self._reply_data(request, result)
        else:
            self._replies.pieces(request.cookie, result)

    def _reply_fetched(self, request: Request) -> None:
        """Pages may have left the cache again already: then the bytes are read into memory of our own."""
        try:
            if not self._from_memory(request):
                self._under_way.run(request, partial(self._wait_for, request, None), self._reply)
        except OSError as error:
            self._under_way.failed(request, error)

    def _reply_data(self, request: Request, data: Any) -> None:
        self._replies.data(request.cookie, request.offset, data, bool(request.flags & p.CMD_FLAG_DF))

    # ---- small reads that miss ----

    def read_random(self, buffer: RequestBuffer) -> int:
        """Do small reads at the front that jump about in a file; returns how many."""
        fd, random = self._export.in_place, self._random
        if fd is None or random is None:
            return 0
        size, place, holes = self._export.size, self._stream.end, self._replies.structured
        many, place, replies, count, length = random.begin(self, fd, buffer.waiting, size, place, NEAR, holes)
        if many:
            buffer.skip(many * p.REQUEST.size)
            self._stream.jump(place)
            self._under_way.begin_many(count, length)
            self._replies.in_part(replies)
        return many

    def arrived(self, results: list[Result], length: int) -> None:
        """Threads have done reads that ``read_random`` has left to them."""
        under_way = self._under_way
        under_way.end_many(len(results), length)
        if not under_way.closed:
            replies = [result for result in results if isinstance(result, bytes)]
            self._replies.in_part(replies)
            if len(replies) < len(results):
                self._tell(results)
        under_way.after()

    def _tell(self, results: list[Result]) -> None:
        for result in results:
            if not isinstance(result, bytes):
                cookie, offset, length, error = result
                request = Request(p.CMD_READ, 0, cookie, offset, length, memoryview(b""))
                self._under_way.failed(request, OSError(error, os.strerror(error)))

    def start_cold(self) -> None:
        """What the batch found in no memory, in few threads: handing a read to a thread costs more than the read."""
        cold, self._cold = self._cold, []
        for start in range(0, len(cold), READS_PER_THREAD):
            group = cold[start : start + READS_PER_THREAD]
            for request in group:
                self._under_way.begin(request)
            self._read_group(group, len(group) > 1)
        ahead = self._stream.next(self._export.size)
        if ahead is not None:
            self._under_way.run_unasked(partial(self.fetch, *ahead))

    def fetch(self, offset: int, length: int) -> None:
        """Runs in a thread: the range will be read soon. Errors: OSError."""
        if self._export.in_place is None:
            self._export.prefetch(offset, length)
        else:
            fetch(self._export.in_place, offset, length)

    def _read_group(self, group: Sequence[Request], start: bool) -> None:
        def work() -> tuple[list[ReadResult], Sequence[Request]]:
            return read_group(self._export, group, start)

        def done(outcome: Any) -> None:
            if isinstance(outcome, BaseException):
                outcome = [(request, outcome) for request in group], ()
            results, rest = outcome
            if self._under_way.closed:
                results, rest = [(request, b"") for request in group], ()
            if rest:
                self._read_group(rest, False)
            for request, result in results:
                self._under_way.end(request, result, self._reply_data)
            self._under_way.after()

        self._under_way.submit(work, done)

    # ---- reads of copies that adjoin ----

    def together(self, batch: list[Request]) -> list[Request]:
        """Reads that adjoin are one where all is in memory: what a copy looks at beside it costs as much as for one.

        Returns the other requests.
        """
        rest: list[Request] = []
        for run in adjoining_reads(batch, self.most_answer):
            for part in [run] if self._sender is None else self._unstreamed(self._sender, run):
                if len(part) == 1 or not self._read_run(part):
                    rest += part
        return rest

    def _unstreamed(self, sender: CopyReader, run: list[Request]) -> Iterable[list[Request]]:
        return adjoining_reads(run[self._stream_run(sender, run) :], MOST_TOGETHER)

    def _stream_run(self, sender: CopyReader, run: list[Request]) -> int:
        """Send what needs no closer look, piece by piece as it is read; returns how many requests are done."""
        start, length = run[0].offset, sum([request.length for request in run])
        replies, flags = self._replies, run[0].flags
        wrong = start + length > self._export.size or flags & ~self._allowed or length > p.MAXIMUM_PAYLOAD
        if replies or wrong or length < SMALL or run[0].kind != p.CMD_READ:
            return 0
        header, holes = replies.header, replies.structured and not flags & p.CMD_FLAG_DF
        outgoing = [(header(cookie, at, size), size) for _, _, cookie, at, size, _ in run]
        target = replies.space.take(min(length, max(STREAM_PIECE, 2 * run[0].length)))
        done, unsent = sender.send_now(replies.socket, start, outgoing, holes, target)
        if unsent:
            replies.in_part(unsent)
        else:
            replies.space.give_back()
        if done:
            self._stream.saw(start, run[done - 1].offset + run[done - 1].length - start)
        return done

    def _read_run(self, run: list[Request]) -> bool:
        start, length = run[0].offset, sum(request.length for request in run)
        if start + length > self._export.size or run[0].flags & ~self._allowed:
            return False
        target = self._replies.space.take(length)
        try:
            filled = self._export.read_now(start, target)
        except OSError:  # each is told its own
            filled = False
        if not filled:
            self._replies.space.give_back()
            return False
        self._stream.saw(start, length)
        for request in run:
            at = request.offset - start
            self._reply_data(request, target[at : at + request.length])
        return True
