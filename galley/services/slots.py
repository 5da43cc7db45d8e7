"""First come, first served: the queue in front of a model with a few slots."""

import asyncio

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

    def room(self, answers: int) -> "Room":
        """Let a request in for a block, with all the answers it asks for.

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
        return Room(self, answers)

    def admit(self, answers: int) -> None:
        """Count answers in; negative ones out."""
        self._admitted += answers

    def slot(self) -> "Slot":
        """Wait for a slot and hold it for a block; the request must have been let in."""
        return Slot(self)

    async def take(self) -> None:
        """Wait for a slot and take it."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.busy += 1

    def give_back(self, held_s: float) -> None:
        """Give a slot back that was held for so long."""
        self.busy -= 1
        self._usual_s += 0.1 * (held_s - self._usual_s)
        self._free.release()


class Room:
    """What `SlotQueue.room` gives."""

    __slots__ = ("_answers", "_queue")

    def __init__(self, queue: SlotQueue, answers: int) -> None:
        self._queue = queue
        self._answers = answers

    def __enter__(self) -> None:
        self._queue.admit(self._answers)

    def __exit__(self, *_: object) -> None:
        self._queue.admit(-self._answers)


class Slot:
    """What `SlotQueue.slot` gives."""

    __slots__ = ("_began", "_clock", "_queue")

    def __init__(self, queue: SlotQueue) -> None:
        self._queue = queue
        self._clock = asyncio.get_running_loop().time

    async def __aenter__(self) -> None:
        await self._queue.take()
        self._began = self._clock()

    async def __aexit__(self, *_: object) -> None:
        self._queue.give_back(self._clock() - self._began)
