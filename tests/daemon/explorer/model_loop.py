"""An event loop with a clock of its own, that never sleeps and can say where every task stands."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any


class _NoSelector:
    """There is nothing to select from: everything that happens is a move of the model."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return []


class ModelLoop(asyncio.BaseEventLoop):
    """``settle`` runs what is ready; ``pass_time`` moves the clock, and nothing else does."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = 1000.0
        self.tasks: list[asyncio.Task[Any]] = []
        self.complaints: list[str] = []
        self._selector = _NoSelector()
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]
        self.set_exception_handler(lambda _, context: self.complaints.append(str(context)))

    def _make_task(self, loop: Any, coroutine: Coroutine[Any, Any, Any], **named: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=self, **named)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.tasks.append(task)
        return task

    def _process_events(self, events: list[Any]) -> None:
        pass

    def time(self) -> float:
        return self.moment

    def settle(self) -> None:
        """Until nothing is ready any more at this moment."""
        self._due()
        while self._ready:  # type: ignore[attr-defined]
            self._run_once()  # type: ignore[attr-defined]
            self._due()
        self.tasks = [task for task in self.tasks if not task.done()]

    def _due(self) -> None:
        if not self._ready and any(not each._cancelled and each._when <= self.moment for each in self._scheduled):  # type: ignore[attr-defined]
            self._run_once()  # type: ignore[attr-defined]

    def timers(self) -> list[asyncio.TimerHandle]:
        """Those that are still to come."""
        return [each for each in self._scheduled if not each._cancelled]  # type: ignore[attr-defined]

    def pass_time(self, until: float) -> None:
        """The clock now says ``until``."""
        self.moment = max(self.moment, until)

    def position(self) -> tuple[Any, ...]:
        """Where each task stands in the code, and which timers run for how long."""
        stacks = sorted(map(_stack, self.tasks))
        timers = sorted((round(each._when - self.moment, 4), _name(each)) for each in self.timers())
        return tuple(stacks), tuple(timers)

    def put_away(self) -> None:
        """Drop what has not ended, without running it."""
        for task in self.tasks:
            try:
                task.get_coro().close()  # type: ignore[union-attr]
            except (Exception, asyncio.CancelledError):
                pass  # what a coroutine does while it is thrown away is of no interest
        self.tasks.clear()
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        self.close()


def _name(handle: asyncio.TimerHandle) -> str:
    callback = handle._callback  # type: ignore[attr-defined]
    return str(getattr(callback, "__qualname__", type(callback).__name__))


def _stack(task: asyncio.Task[Any]) -> tuple[tuple[str, int], ...]:
    found = []
    each: Any = task.get_coro()
    while inspect.iscoroutine(each) and each.cr_frame is not None:
        found.append((each.cr_code.co_name, each.cr_frame.f_lasti))
        each = each.cr_await
    return tuple(found)
