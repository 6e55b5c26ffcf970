"""The locks of package managers and of the account files, held over the cut; they end with this process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

from shadowset.vss.codes import Code, VssError

POLL_SECONDS = 0.1


class Locks:
    """Locks on files, as lockf takes them, which is how dpkg, rpm and the account tools do."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        self._held: list[int] = []

    def take(self, seconds: float, cancelled: Callable[[], bool]) -> None:
        """All of them, in their order; waits for who has one.

        Errors: VSS_E_WRITERERROR_RETRYABLE naming the one that stays taken; none is held then.
        """
        end = time.monotonic() + seconds
        for path in self._paths:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue  # nobody has ever taken it
            except OSError as error:
                self.release()
                message = f"the lock {path} cannot be opened ({error.strerror}); run the writer as root"
                raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
            self._held.append(fd)
            while not _taken(fd):
                if cancelled() or time.monotonic() >= end:
                    self.release()
                    message = f"{path} is held by somebody who changes packages or accounts; try again when it is done"
                    raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
                time.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Lets go of all."""
        held, self._held = self._held, []
        for fd in held:
            os.close(fd)


def _taken(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
