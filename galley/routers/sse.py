"""Streams of server-sent events that have nothing to say for long."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE = 2.0  # seconds without a first piece, then the stream starts with comments
BETWEEN_COMMENTS = 5.0  # seconds
COMMENT = b": waiting for the model\n\n"


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
