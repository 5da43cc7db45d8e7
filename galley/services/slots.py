"""First come, first served: the queue in front of a model with a few slots."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from galley.core.errors import BadRequestError, OverloadedError


class SlotQueue:
    """At most `slots` at work and at most `longest` waiting.

    Args:
        slots: how many the model serves at the same time.
        longest: how many may wait; more are refused at once.
    """

    def __init__(self, slots: int, longest: int) -> None:
        self.slots = slots
        self.waiting = 0
        self.busy = 0
        self._longest = longest
        self._admitted = 0
        self._free = asyncio.Semaphore(slots)
        self._usual_s = 1.0  # how long a slot is held, a moving average in seconds

    @contextmanager
    def room(self, answers: int) -> Generator[None]:
        """Let a request in for the block, with all the answers it asks for.

        Raises:
            BadRequestError: there would not be room for so many in an idle server.
            OverloadedError: there is none now; `retry_after` is an estimate.
        """
        most = self.slots + self._longest
        if answers > most:
            raise BadRequestError(
                f"{answers} answers are more than this model makes for one request ({most}).",
                code="too_many_answers",
                param="n",
            )
        if self._admitted + answers > most:
            raise OverloadedError(
                f"The model is busy and {self.waiting} answers are waiting. Try again later.",
                code="queue_full",
                retry_after=max(1.0, self._usual_s * (self.waiting + 1) / self.slots),
            )
        self._admitted += answers
        try:
            yield
        finally:
            self._admitted -= answers

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Wait for a slot and hold it for the block; the request must have been let in."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.busy += 1
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            yield
        finally:
            self.busy -= 1
            self._usual_s += 0.1 * (clock() - began - self._usual_s)
            self._free.release()
