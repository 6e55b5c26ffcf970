"""One index over the cut: nobody else can write to it while its own lock is held."""

from __future__ import annotations

import time

from shadowset.vss.codes import Code, VssError
from shadowset.writers.index.library import Library, Reading, Release

POLL_SECONDS = 0.01
LOCKED = "locked"


class HeldIndex:
    """``Held`` of the server writer. The lock is the process's, and ends with it."""

    def __init__(self, library: Library, path: str, required: bool) -> None:
        """Errors: VssError."""
        self._library, self._path, self._required = library, path, required
        self._release: Release | None = None
        self._reading: Reading = library.read(path)
        self._method = ""

    def facts(self) -> dict[str, str]:
        facts = {"library": self._library.name, "method": self._method, "documents": str(self._reading.documents)}
        return facts if self._method == LOCKED else facts | {"why": "its indexer held its lock all the time"}

    def stamp(self) -> str:
        return self._reading.stamp() if self._method == LOCKED else ""

    def prepare(self, seconds: float) -> None:
        """Nothing: an index is on its disk when it is committed."""

    def hold(self, seconds: float, window: float) -> None:
        end = time.monotonic() + seconds
        while (release := self._library.lock(self._path)) is None:
            if time.monotonic() >= end:
                if not self._required:
                    self._method = "as it lay"  # both libraries recover from any instant of their files
                    return
                message = (
                    f"the index {self._path} was locked by its indexer all the time; have it let go between its"
                    " batches, or set required = false"
                )
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
            time.sleep(POLL_SECONDS)
        self._release, self._method = release, LOCKED
        self._reading = self._library.read(self._path)

    def release(self) -> None:
        """Errors: VssError when somebody wrote past the lock."""
        if self._release is None:
            return
        now = self._library.read(self._path)
        self.close()
        if now != self._reading:
            message = f"the index {self._path} changed under its lock ({now.stamp()}); see who writes to it"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def interrupt(self) -> None:
        """``hold`` waits no longer than it may."""

    def close(self) -> None:
        """Lets the indexers go on."""
        release, self._release = self._release, None
        if release is not None:
            release()
