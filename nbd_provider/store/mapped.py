"""The writer's words in mapped files, touched only when they are there.

Touching a page that the disk cannot read, or storing into one that the file system will not take, would end the process
with SIGBUS, and the live volume with it. So the kernel is asked for the page first, where the answer is an error. Pages
that the live path looks at stay in memory then, up to a limit, so that it asks once for each.

A page may go between that and the touching: its file was cut off, or its file system was shut down. With the module in
C it is zeros then, and ``check`` tells so whoever has touched words; nothing may be done with them from then on.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from threading import Lock
from typing import Final

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.resident import guard

PAGE: Final = mmap.PAGESIZE
PAGE_WORDS: Final = PAGE // layout.WORD
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MOST_AT_ONCE: Final = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = _libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Mapped:
    """``count`` words of a file. ``most`` pages that were looked at are kept in memory.

    ``view`` may be read where ``ready`` has been. It may be stored to where ``ready_to_store`` has just been, or where
    ``ready`` has been and a write to the same file system has just gone well. Before what was read or stored counts for
    anything, ``check`` has to be called; only for words of 0, which may be read where a page went, it need not.
    """

    def __init__(self, fd: int, count: int, writable: bool, most: int = 0) -> None:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self.map = mmap.mmap(fd, count * layout.WORD, access=access)
        self.view: memoryview = memoryview(self.map).cast("Q")
        self._lost = bytearray(1)
        self._guard: object = guard(self.map, self._lost)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.map)) if most else 0
        self._most = most
        self.pages: dict[int, None] = {}
        """Those that stay in memory, oldest first."""
        self._keeping = Lock()
        self._can_ask = True

    def ready(self, first: int, count: int = 1) -> None:
        """Words that may be read now. Errors: OSError (EIO)."""
        page = first // PAGE_WORDS
        if page not in self.pages or (first + count - 1) // PAGE_WORDS != page:
            self._bring(page, (first + count - 1) // PAGE_WORDS + 1)

    def ready_to_store(self, first: int, count: int = 1) -> None:
        """Words that may be stored now; disk space behind them must be there. Errors: OSError (EIO)."""
        self._ask(MADV_POPULATE_WRITE, first // PAGE_WORDS, (first + count - 1) // PAGE_WORDS + 1)

    def check(self) -> None:
        """Whether all words were there whenever they were touched. Errors: OSError (EIO), from then on."""
        if self._lost[0]:
            with self._keeping:
                self._most = 0
                self.pages.clear()
            raise OSError(errno.EIO, "words of shadow storage went while they were in use")

    def get(self, index: int) -> int:
        """A word. Errors: OSError (EIO)."""
        self.ready(index)
        word: int = self.view[index]
        self.check()
        return word

    def put(self, index: int, word: int) -> None:
        """Change a word in one aligned store, so that readers see the old one or the new one. Errors: OSError (EIO)."""
        self.ready_to_store(index)
        self.view[index] = word
        self.check()

    def _ask(self, advice: int, first: int, end: int) -> None:
        self.check()
        if not self._can_ask:
            return
        try:
            self.map.madvise(advice, first * PAGE, (end - first) * PAGE)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a kernel that cannot be asked
                self._can_ask = False
                return
            raise OSError(errno.EIO, f"words of shadow storage cannot be reached: {error.strerror}") from None

    def _bring(self, first: int, end: int) -> None:
        self._ask(MADV_POPULATE_READ, first, end)
        if end - first <= MOST_AT_ONCE:
            with self._keeping:
                for page in range(first, end):
                    self._keep(page)

    def _keep(self, page: int) -> None:
        """Oldest out first; where memory may not be locked, each look asks again."""
        if not self._most or page in self.pages:
            return
        if len(self.pages) >= self._most:
            oldest = next(iter(self.pages))
            del self.pages[oldest]
            _libc.munlock(self._address + oldest * PAGE, PAGE)
        if _libc.mlock(self._address + page * PAGE, PAGE) == 0:
            self.pages[page] = None
        else:
            self._most = len(self.pages)

    def close(self) -> None:
        """Let go of the memory."""
        self._guard = None
        self.view.release()
        self.map.close()
