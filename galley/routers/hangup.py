"""Whatever waits for a model also listens for the caller hanging up, and for the clock."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from starlette.types import Receive

from galley.core.errors import CancelledError, EngineTimeoutError

# Most answers are there sooner; only then is a task worth its microseconds.
UNWATCHED = 0.1  # seconds


@asynccontextmanager
async def while_listening(receive: Receive, seconds: float) -> AsyncGenerator[Callable[[], None]]:
    """Stop the block when the caller hangs up, or after so many seconds.

    The request's body must have been read. What is yielded ends the listening before the block
    does: work that is done is booked as done, whatever the clock says by then.

    Raises:
        CancelledError: the caller hung up.
        EngineTimeoutError: the block took too long.
    """
    listener = _Listener(receive)
    limit = asyncio.timeout(seconds)

    def stop() -> None:
        limit.reschedule(None)
        listener.stop()

    try:
        async with limit:
            yield stop
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise EngineTimeoutError(
            f"The model did not finish within {seconds:g} seconds.", code="timeout"
        ) from error
    except asyncio.CancelledError:
        if not listener.was_the_reason():
            raise
        raise CancelledError("The caller hung up.", code="client_closed_request") from None
    finally:
        listener.stop()


class _Listener:
    """Cancels the task that made it when the caller hangs up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._heard = False
        self._listening: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(UNWATCHED, self._begin)

    def was_the_reason(self) -> bool:
        """Say whether the task was cancelled by this listener and by nobody else."""
        return self._heard and self._task is not None and self._task.uncancel() == 0

    def stop(self) -> None:
        self._timer.cancel()
        if self._listening is not None:
            self._listening.cancel()

    def _begin(self) -> None:
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._heard = True
        if self._task is not None:
            self._task.cancel()
