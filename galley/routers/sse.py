"""Streams of server-sent events that have nothing to say for long."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE = 2.0  # seconds without a first piece, then the stream starts with comments
BETWEEN_COMMENTS = 5.0  # seconds
COMMENT = b": waiting for the model\n\n"
IN_LINE = b": position %d of %d in the queue\n\n"


class Comments:
    """Keeps a stream alive that has nothing to say yet.

    Args:
        stands: its place in the queue, and how many wait; None when it waits for the model alone.
    """

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        stands: Callable[[], tuple[int, int] | None],
    ) -> None:
        self._send = send
        self._stands = stands
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
            stands = self._stands()
            await self._send(COMMENT if stands is None else IN_LINE % stands)
            await asyncio.sleep(BETWEEN_COMMENTS)
