"""The files of shadow storage as memory and descriptors of their writer."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterable
from threading import Lock
from typing import Final

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.mapped import PAGE_WORDS, Mapped
from shadowset.nbd_provider.store.slots import find_slot, lower
from shadowset.nbd_provider.store.writeback import Witness
from shadowset.vss.codes import Code, VssError

ALLOCATION_STEP: Final = 64 * 1024
ALLOCATION_WORDS: Final = ALLOCATION_STEP // 8
MOST_PAGES: Final = 4096
"""Of ``head`` so much is kept in memory, 16 MiB: the words of 32 GiB at the usual chunk size."""


def storage_error(path: str, reason: object, step: str) -> VssError:
    """One sentence about a storage directory."""
    return VssError(Code.VSS_E_UNEXPECTED, f"shadow storage {path}: {reason}; {step}")


def aside_step(storage: str) -> str:
    """What to do about a storage of which nobody knows what is in it."""
    command = f"shadowset-provider set-aside {shlex.quote(storage)} --origin DEVICE"
    return f"restore it, or give up the copies: '{command}' makes a new one in its place"


def read_header(storage: str) -> layout.Header:
    """The header of a storage directory. Errors: VssError naming the directory and the reason."""
    if sys.byteorder != "little":
        raise storage_error(storage, "this machine is big-endian and its words are not", "use a little-endian machine")
    path = f"{storage}/table"
    try:
        with open(path, "rb") as file:
            return layout.Header.unpack(file.read(layout.PAGE))
    except FileNotFoundError:
        raise storage_error(storage, "it has no table", "name a directory that a provider has made") from None
    except OSError as error:
        raise storage_error(storage, f"its table cannot be read: {error.strerror}", aside_step(storage)) from error
    except ValueError as error:
        raise storage_error(storage, f"its table is damaged: {error}", aside_step(storage)) from error


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """pwrite until all of it is written. Errors: OSError."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


class Words:
    """A file of 64-bit words in the writer's memory, which makes sure of disk space before it stores.

    Storing into a hole of a mapped file on a full file system would end the process with SIGBUS, so ``reserve``
    allocates first, where the error is an exception. Errors: OSError, VssError when the file is too short.
    """

    def __init__(self, path: str, count: int) -> None:
        self._fd = os.open(path, os.O_RDWR)
        try:
            self._mapped = Mapped(self._fd, max(count, 1), True, MOST_PAGES)
        except ValueError:
            os.close(self._fd)
            storage, name = os.path.split(path)
            reason = f"its file {name} was cut off: it has to have {count * layout.WORD} bytes"
            raise storage_error(storage, reason, "start the provider anew") from None
        self._take()
        self._reserved: set[int] = set()
        self.witness = Witness(self._fd)

    def _take(self) -> None:
        mapped = self._mapped
        self.view, self.ready, self.ready_to_store = mapped.view, mapped.ready, mapped.ready_to_store
        self.get, self.put, self.pages, self.check = mapped.get, mapped.put, mapped.pages, mapped.check

    def reserved(self, indexes: Iterable[int]) -> bool:
        """Whether the disk space behind words is known to be there."""
        return self._reserved.issuperset([index // ALLOCATION_WORDS for index in indexes])

    def reserve(self, indexes: Iterable[int]) -> None:
        """Allocate the disk space behind words. Errors: OSError (ENOSPC)."""
        for step in {index // ALLOCATION_WORDS for index in indexes} - self._reserved:
            start = step * ALLOCATION_STEP
            os.posix_fallocate(self._fd, start, min(ALLOCATION_STEP, len(self._mapped.map) - start))
            self._reserved.add(step)

    def enlarge(self, count: int) -> None:
        """Take in what the file, which is long enough already, has gained. Errors: OSError."""
        grown = Mapped(self._fd, max(count, 1), True, MOST_PAGES)
        self._mapped.close()
        self._mapped = grown
        self._take()
        self._reserved.clear()

    def sync(self) -> None:
        """Make all words durable. Errors: OSError."""
        self.check()
        self._mapped.map.flush()
        os.fdatasync(self._fd)

    def put_again(self) -> None:
        """The kernel takes for written what it could not write: have the pages that may have been stored to written
        once more. Errors: OSError."""
        starts = {
            step * ALLOCATION_WORDS + at for step in self._reserved for at in range(0, ALLOCATION_WORDS, PAGE_WORDS)
        }
        starts |= {page * PAGE_WORDS for page in list(self.pages)}
        for start in sorted(starts):
            if start < len(self.view):
                self.ready(start)
                if any(self.view[start : start + PAGE_WORDS]):
                    self.put(start, self.view[start])

    def close(self) -> None:
        """Let go of memory and descriptors."""
        self.witness.close()
        self._mapped.close()
        os.close(self._fd)


_LOOK: Final = 1 << 20


class Segment:
    """One file of slots: their records, then their data; as the writer sees it."""

    def __init__(self, storage: str, number: int, writable: bool) -> None:
        self.path = f"{storage}/{layout.segment_name(number)}"
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self.fd = os.open(self.path, flags, 0o600)
        if writable and os.fstat(self.fd).st_size < layout.SEGMENT_DATA:
            sync_directory(os.path.dirname(self.path))
            os.ftruncate(self.fd, layout.SEGMENT_DATA)
        self.words = Mapped(self.fd, layout.SEGMENT_DATA // layout.WORD, writable)
        self.witness = Witness(self.fd) if writable else None

    def records(self, first: int, end: int) -> memoryview:
        """All words, of which the records from ``first`` to before ``end`` may be looked at; what was seen counts when
        ``words.check`` agrees. Errors: OSError (EIO)."""
        self.words.ready(first * layout.SLOT_WORDS, (end - first) * layout.SLOT_WORDS)
        return self.words.view

    def record_page(self, start: int) -> bytes:
        """The page of records that begins at byte ``start``. Errors: OSError (EIO)."""
        self.words.ready(start // layout.WORD)
        page = self.words.map[start : start + layout.PAGE]
        self.words.check()
        return page

    def records_end(self) -> int:
        """The byte after the last record that was ever written, in whole records. Errors: OSError."""
        for start in reversed(range(0, layout.SEGMENT_DATA, _LOOK)):
            length = min(_LOOK, layout.SEGMENT_DATA - start)
            content = os.pread(self.fd, length, start)
            if len(content) < length:
                raise OSError(errno.EIO, f"{self.path} cannot be read at byte {start + len(content)}")
            taken = len(content.rstrip(b"\0"))
            if taken:
                return -(-(start + taken) // layout.SLOT_RECORD_SIZE) * layout.SLOT_RECORD_SIZE
        return 0

    def close(self) -> None:
        """Let go of memory and descriptors."""
        if self.witness is not None:
            self.witness.close()
        self.words.close()
        os.close(self.fd)


class Segments:
    """All segments of a storage directory for its writer, opened when first needed."""

    def __init__(self, storage: str, chunk_size: int, writable: bool = False) -> None:
        self._storage = storage
        self._chunk_size = chunk_size
        self._writable = writable
        self._open: dict[int, Segment] = {}
        self._opening = Lock()

    def get(self, number: int) -> Segment:
        """One segment; several threads may be the first to ask for it. Errors: OSError."""
        segment = self._open.get(number)
        if segment is None:
            with self._opening:
                segment = self._open.get(number)
                if segment is None:
                    segment = self._open[number] = Segment(self._storage, number, self._writable)
        return segment

    def previous_head(self, slot: int) -> int:
        """The head word that the slot replaced. Errors: OSError."""
        number, index = divmod(slot, layout.SEGMENT_SLOTS)
        return lower(self.get(number).words.get(index * layout.SLOT_WORDS + layout.WORD_PREVIOUS), slot)

    def set_previous_head(self, slot: int, word: int) -> None:
        """Let the slot's chain go on elsewhere. Errors: OSError."""
        number, index = divmod(slot, layout.SEGMENT_SLOTS)
        self.get(number).words.put(index * layout.SLOT_WORDS + layout.WORD_PREVIOUS, word)

    def mark_free(self, slots: Iterable[int]) -> None:
        """Nobody is to look at these slots again."""
        for slot in slots:
            number, index = divmod(slot, layout.SEGMENT_SLOTS)
            self.get(number).words.put(index * layout.SLOT_WORDS + layout.WORD_CHUNK, layout.FREE_CHUNK)

    def flags(self, slot: int) -> int:
        """The slot's flags in the lower 32 bits, the checksum of its data in the upper ones."""
        number, index = divmod(slot, layout.SEGMENT_SLOTS)
        return self.get(number).words.get(index * layout.SLOT_WORDS + layout.WORD_FLAGS)

    def set_flags(self, slot: int, word: int) -> None:
        """Change flags and checksum of a slot in one aligned store."""
        number, index = divmod(slot, layout.SEGMENT_SLOTS)
        self.get(number).words.put(index * layout.SLOT_WORDS + layout.WORD_FLAGS, word)

    def sync(self) -> None:
        """Make all segments that there are durable. Errors: OSError."""
        for name in os.listdir(f"{self._storage}/segments"):
            os.fdatasync(self.get(int(name, 16)).fd)

    def late_error(self) -> int:
        """Number of an error that one of the open segments met when it was written back, 0 for none."""
        asked = [each.witness.error() for each in list(self._open.values()) if each.witness is not None]
        return max(asked, default=0)

    def exists(self, number: int) -> bool:
        """Whether the segment's file is there."""
        return number in self._open or os.path.exists(f"{self._storage}/{layout.segment_name(number)}")

    def find(self, word: int, copy: int) -> int | None:
        """The slot that holds what copy number ``copy`` saw, walking back from a head word; None means the origin."""
        return find_slot(word, copy, self.previous_head)

    def read(self, slot: int, start: int, length: int) -> bytes:
        """Bytes of a slot's data. Errors: OSError, EOFError when the slot is not there."""
        number, _, data = layout.slot_position(slot, self._chunk_size)
        content = os.pread(self.get(number).fd, length, data + start)
        if len(content) != length:
            raise EOFError(f"slot {slot} ends early")
        return content

    def discard(self, number: int) -> None:
        """Close and remove a segment whose slots are all free."""
        segment = self.get(number)
        del self._open[number]
        segment.close()
        os.unlink(segment.path)

    def close(self) -> None:
        """Close all."""
        for segment in self._open.values():
            segment.close()
        self._open.clear()
