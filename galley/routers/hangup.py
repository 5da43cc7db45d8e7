"""Whatever waits for a model also listens for the caller hanging up, and for the clock."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from galley.core.errors import CancelledError, EngineTimeoutError, GalleyError

# Most answers are there sooner; only then are a task and a timer worth their microseconds.
UNWATCHED = 0.1  # seconds


class Listening:
    """A block that stops when the caller hangs up, or after so many seconds.

    The request's body must have been read.

    Raises:
        CancelledError: the caller hung up.
        EngineTimeoutError: the block took too long.
    """

    __slots__ = ("_cancelling", "_listener", "_reason", "_receive", "_seconds", "_task", "_timer")

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._reason: GalleyError | None = None
        self._listener: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        unwatched = min(UNWATCHED, self._seconds)
        self._timer = asyncio.get_running_loop().call_later(unwatched, self._begin, unwatched)
        return self

    def stop(self) -> None:
        """Listen no more: work that is done is booked as done, whatever the clock says by then."""
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self.stop()
        if self._reason is None or self._task is None:
            return
        # Somebody else may have cancelled the task as well, and then that goes first.
        ours = self._task.uncancel() <= self._cancelling
        if ours and isinstance(error, asyncio.CancelledError):
            raise self._reason from None

    def _begin(self, passed: float) -> None:
        self._listener = asyncio.create_task(self._listen())
        left = self._seconds - passed
        self._timer = asyncio.get_running_loop().call_later(left, self._expire)

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(CancelledError("The caller hung up.", code="client_closed_request"))

    def _expire(self) -> None:
        said = f"The model did not finish within {self._seconds:g} seconds."
        self._end(EngineTimeoutError(said, code="timeout"))

    def _end(self, reason: GalleyError) -> None:
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()
