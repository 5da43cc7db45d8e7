"""Streams of server-sent events: what comes at once leaves at once, and long waits are filled."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

from galley.core.errors import GalleyError

T = TypeVar("T")

PATIENCE = 2.0  # seconds without a first piece, then the stream starts with comments
BETWEEN_COMMENTS = 5.0  # seconds
COMMENT = b": waiting for the model\n\n"

Flush = Callable[[], Coroutine[Any, Any, None]]


@types.coroutine
def flushing(awaitable: Awaitable[T], flush: Flush) -> Generator[Any, Any, T]:
    """Await `awaitable`, and if it has to wait, `flush` first.

    One read of a busy upstream brings dozens of pieces, which are there without waiting; a send for
    each of them costs more than all the rest.
    """
    steps = awaitable.__await__()
    try:
        waits_for = next(steps)
    except StopIteration as done:
        return done.value
    try:
        yield from flush().__await__()
    except BaseException:
        yield from _end(steps, waits_for)
        raise
    return (yield from _rest(steps, waits_for))


def _rest(steps: Generator[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Go on with what waits, as `await` does."""
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:
                waits_for = steps.throw(error)
            else:
                waits_for = steps.send(sent)
    except StopIteration as done:
        return done.value


def _end(steps: Generator[Any, Any, Any], waits_for: Any) -> Generator[Any]:
    """Cancel what waits, as a task is cancelled: it is not to blame, and it ends in its own time.

    Left as it is it could not even be closed, and nobody would hang up on the model.
    """
    with suppress(asyncio.CancelledError, GalleyError, StopIteration):
        if waits_for is None:  # it only let others go first
            waits_for = steps.throw(asyncio.CancelledError())
        else:
            waits_for.cancel()
        yield from _rest(steps, waits_for)


class Comments:
    """Keeps a stream alive that has nothing to say yet."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._begin)

    def stop(self) -> None:
        """The first piece is here, or none will come."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._comment())

    async def _comment(self) -> None:
        while True:
            await self._send(COMMENT)
            await asyncio.sleep(BETWEEN_COMMENTS)
