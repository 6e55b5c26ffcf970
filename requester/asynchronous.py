"""The object that stands for a call still under way, as IVssAsync does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from shadowset.requester.connection import Connection
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import Call, Cancel

T = TypeVar("T")


class AsyncOperation(Generic[T]):
    """A call that was started and whose outcome is asked for later.

    ``wait`` and ``query_status`` answer VSS_S_ASYNC_PENDING, VSS_S_ASYNC_FINISHED or VSS_S_ASYNC_CANCELLED, and raise
    the VssError of a call that failed, each time they are asked.
    """

    def __init__(
        self,
        connection: Connection,
        call: type[Call],
        on_finished: Callable[[T], None] | None = None,
        **fields: Any,
    ) -> None:
        self._connection = connection
        self._on_finished = on_finished
        self._status = Code.VSS_S_ASYNC_PENDING
        self._value: T | None = None
        self._error: VssError | None = None
        self._sequence = connection.start(call, **fields)

    def wait(self, timeout: float | None = None) -> Code:
        """Wait until the call is over, or ``timeout`` seconds have passed."""
        if self._status == Code.VSS_S_ASYNC_PENDING and self._error is None:
            self._settle(timeout)
        if self._error is not None:
            raise self._error
        return self._status

    def query_status(self) -> Code:
        """How the call stands now, without waiting."""
        return self.wait(0)

    def result(self) -> T:
        """Wait, and return the call's value.

        Errors: the call's own; VssError with VSS_S_ASYNC_CANCELLED when it was cancelled.
        """
        if self.wait() == Code.VSS_S_ASYNC_CANCELLED:
            raise VssError(Code.VSS_S_ASYNC_CANCELLED, "the call was cancelled and has no result; start again")
        return self._value  # type: ignore[return-value]  # null is the value of calls without a result

    def cancel(self) -> None:
        """Ask the coordinator to give the call up. One that is over already stays as it is; wait() tells."""
        if self._status == Code.VSS_S_ASYNC_PENDING and self._error is None:
            self._connection.call(Cancel, target=self._sequence)

    def _settle(self, timeout: float | None) -> None:
        try:
            if not self._connection.poll(self._sequence, timeout):
                return
            self._value = self._connection.take(self._sequence)
        except VssError as error:
            if error.code != Code.VSS_S_ASYNC_CANCELLED:
                self._error = error
                return
            self._status = Code.VSS_S_ASYNC_CANCELLED
            return
        self._status = Code.VSS_S_ASYNC_FINISHED
        if self._on_finished is not None:
            self._on_finished(self._value)
