"""Other processes and blocking calls, kept away from the event loop and bounded in time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from shadowset.vss.cgroups import CGROUPS, memory_groups
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)
T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run a blocking call in a thread of its own.

    The thread is a daemon thread: a call that is stuck in the kernel must not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]

    def body() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            pass  # the loop has ended; nobody waits any more

    threading.Thread(target=body, daemon=True).start()
    return future


async def despite_cancel(work: Coroutine[Any, Any, T]) -> T:
    """Finish ``work`` even when the caller is cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
        except BaseException:
            break
    if cancelled:
        if not task.cancelled() and task.exception():
            log.warning("work that was finished in spite of a cancellation failed: %s", task.exception())
        raise asyncio.CancelledError
    return task.result()


async def within(milliseconds: float, work: Awaitable[T], code: int, sentence: str) -> T:
    """The result of ``work``, or VssError(code, sentence) when it takes longer."""
    try:
        return await asyncio.wait_for(work, max(milliseconds, 0) / 1000)
    except TimeoutError:
        raise VssError(code, sentence) from None


async def run_command(arguments: Sequence[str], timeout_ms: int) -> tuple[int, str, str]:
    """Exit status, output and error output of a command; one that takes too long is killed and counts as failed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return 127, "", f"{arguments[0]} cannot be run: {error.strerror}"
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_ms / 1000)
    except TimeoutError:
        _kill(process)
        return 124, "", f"{arguments[0]} took longer than {timeout_ms} ms and was ended"
    except asyncio.CancelledError:
        _kill(process)
        raise
    return process.returncode or 0, out.decode(errors="replace").strip(), err.decode(errors="replace").strip()


def _kill(process: asyncio.subprocess.Process) -> None:
    try:
        process.kill()
    except ProcessLookupError:
        pass


def spawn_service(arguments: Sequence[str], log: str) -> subprocess.Popen[bytes]:
    """Start a process that outlives the daemon; its error output goes to the file ``log``.

    Errors: VssError when the program cannot be run.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        if os.fstat(descriptor).st_size > 1 << 20:
            os.ftruncate(descriptor, 0)
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=descriptor,
            start_new_session=True,
            cwd="/",
        )
    except OSError as error:
        raise VssError(Code.E_UNEXPECTED, f"{arguments[0]} cannot be run: {error.strerror}") from None
    finally:
        os.close(descriptor)


def last_line(log: str) -> str:
    """The last line of a log that says something, for error sentences."""
    try:
        with open(log, errors="replace") as file:
            lines = [line.strip() for line in file.read()[-4096:].splitlines() if line.strip()]
    except OSError:
        return "no message"
    return lines[-1] if lines else "no message"


def made_groups(pid: int, name: str) -> list[str]:
    """The memory cgroups of that name that a process is in."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            groups = memory_groups(file.read(), os.path.exists(f"{CGROUPS}/cgroup.controllers"))
    except OSError:
        return []
    return [group for group in groups if os.path.basename(group) == name]


def remove_groups(groups: Sequence[str]) -> None:
    """What is empty by now; the rest stays."""
    for group in groups:
        try:
            os.rmdir(group)
        except OSError:
            pass


def signal_name(number: int) -> str:
    """``SIGKILL``, or ``signal 40`` for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class ProcessWatch:
    """A process by its pidfd, whether it is our child or not: alive, ended, or to be ended."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Errors: ProcessLookupError when there is no such process."""
        self.pid = pid
        self._child = child
        self._descriptor = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    def _end(self) -> None:
        if self._ended.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        if self._child:
            self._child.poll()
        self._ended.set()

    @property
    def status(self) -> int:
        """Exit status of a child that has ended, by signal N as -N; 0 for a process that is not our child."""
        return (self._child.returncode or 0) if self._child else 0

    @property
    def alive(self) -> bool:
        """False once its end has been noticed."""
        return not self._ended.is_set()

    async def wait(self) -> None:
        """Until it has ended."""
        await self._ended.wait()

    def forget(self) -> None:
        """Stop watching."""
        if self.alive:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._ended.set()

    async def end(self, grace_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after ``grace_s``."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.alive:
                return
            try:
                signal.pidfd_send_signal(self._descriptor, number)
            except ProcessLookupError:
                pass
            try:
                await asyncio.wait_for(self._ended.wait(), grace_s)
            except TimeoutError:
                pass
