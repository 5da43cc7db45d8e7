"""The queue in front of a model with a few slots: fair to users, by the weight of their tiers.

Work in the background has a line of its own and takes a slot only while nobody else waits. Where
there are several slots, it leaves one free: who comes next need not wait for the end of its turn.
"""

import asyncio
import time
from collections.abc import Callable

from galley.core.errors import BadRequestError, OverloadedError
from galley.core.tracing import step
from galley.services.fairness import FairLine, Flow

LONGEST_WAIT_S = 60.0


class SlotQueue:
    """At most `slots` at work and at most `longest` waiting.

    Args:
        slots: how many the model serves at the same time.
        longest: how many may wait; more are refused at once. In the background as many again.
        longest_wait_s: how long one may wait, in seconds; in the background there is no end.
        clock: seconds.
    """

    def __init__(
        self,
        slots: int,
        longest: int,
        *,
        longest_wait_s: float = LONGEST_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = slots
        self.busy = 0
        self.served = 0
        self.clock = clock
        self.usual_s = 1.0  # how long a slot is held, a moving average in seconds
        self.front: Line = FairLine()
        self.back: Line = FairLine()
        self._most_back = max(1, slots - 1)
        self._longest = longest
        self._longest_wait_s = longest_wait_s
        self._admitted = {False: 0, True: 0}

    @property
    def waiting(self) -> int:
        """How many wait, those in the background apart."""
        return self.front.waiting

    @property
    def retry_after(self) -> float:
        """After how many seconds a slot may be free for who comes now."""
        return max(1.0, self.usual_s * (self.waiting + 1) / self.slots)

    def room(self, answers: int, *, background: bool = False) -> "Room":
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
        if self._admitted[background] + answers > most:
            raise OverloadedError(
                f"The model is busy and {self.waiting} answers are waiting. Try again later.",
                code="queue_full",
                retry_after=self.retry_after,
            )
        return Room(self._admitted, answers, background)

    def slot(
        self,
        owner: str,
        weight: float = 1,
        *,
        background: bool = False,
        on_wait: "Callable[[Ticket], None] | None" = None,
    ) -> "Slot":
        """Wait for a slot and hold it for a block; the request must have been let in.

        Args:
            owner: whose turn it is; they share with the others by their weights.
            on_wait: is told when it has to wait.
        """
        return Slot(self, self.back if background else self.front, owner, weight, on_wait)

    def may_begin(self, line: "Line") -> bool:
        """Whether one more of this line may begin."""
        if line is self.front:
            return self.busy < self.slots
        gap = self.busy < self.slots and not self.front.waiting
        return gap and self.back.running < self._most_back

    def begin(self, line: "Line", flow: "Turns") -> float:
        """Take a slot that is free; returns what the turn is charged with."""
        self.busy += 1
        self.served += 1
        line.begin(flow, self.usual_s)
        return self.usual_s

    async def wait(self, ticket: "Ticket") -> None:
        """Wait until a turn has begun.

        Raises:
            OverloadedError: it did not come in time.
        """
        timer, came = None, self.clock()
        if ticket.line is self.front:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._longest_wait_s, self._expire, ticket)
        try:
            with step("queue"):
                await ticket.turn
        except BaseException:
            if ticket.granted:  # just as its caller hung up
                self.give_back(ticket.line, ticket.flow, ticket.charged, 0.0)
            else:
                ticket.line.leave(ticket.flow, ticket)
            raise
        finally:
            ticket.waited_s = self.clock() - came
            if timer is not None:
                timer.cancel()

    def give_back(self, line: "Line", flow: "Turns", charged: float, held_s: float) -> None:
        """Give a slot back that was held for so long, and hand it to who is next."""
        self.busy -= 1
        line.end(flow, charged, held_s)
        while self.front.waiting and self.busy < self.slots:
            self._hand_out(self.front)
        while self.back.waiting and self.may_begin(self.back):
            self._hand_out(self.back)

    def _hand_out(self, line: "Line") -> None:
        ticket = line.next(self.usual_s)
        if ticket.turn.done():  # its caller has just hung up
            line.end(ticket.flow, self.usual_s, 0.0)
            return
        self.busy += 1
        ticket.behind = self.served - ticket.came
        self.served += 1
        ticket.charged = self.usual_s
        ticket.granted = True
        ticket.turn.set_result(None)

    def _expire(self, ticket: "Ticket") -> None:
        if not ticket.turn.done():
            ticket.turn.set_exception(
                OverloadedError(
                    f"No slot of the model was free within {self._longest_wait_s:g} seconds."
                    " Try again later.",
                    code="queue_timeout",
                    retry_after=self.retry_after,
                )
            )


class Ticket:
    """A place in the queue.

    Args:
        place: how many there were up to it when it came, itself among them; at most `of`.
        behind: how many were served between its coming and its turn.
        waited_s: how long it waited, once it waits no more.
    """

    __slots__ = (
        "behind", "came", "charged", "flow", "granted", "line", "of", "place", "queue", "turn",
        "waited_s",
    )  # fmt: skip

    def __init__(self, queue: SlotQueue, line: "Line", flow: "Turns") -> None:
        self.queue = queue
        self.line = line
        self.flow = flow
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.granted = False
        self.charged = 0.0
        self.came = queue.served
        self.behind = 0
        self.waited_s = 0.0
        line.join(flow, self)
        self.place, self.of = self._stands()

    @property
    def stands(self) -> tuple[int, int] | None:
        """Its place now, and how many wait; None when it waits no more."""
        return None if self.turn.done() else self._stands()

    def _stands(self) -> tuple[int, int]:
        place = 1 + self.line.ahead(self.flow, self, max(1e-6, self.queue.usual_s))
        front = self.queue.front.waiting
        return (
            (place, front)
            if self.line is self.queue.front
            else (front + place, front + self.line.waiting)
        )


Line = FairLine[Ticket]
Turns = Flow[Ticket]


class Room:
    """What `SlotQueue.room` gives."""

    __slots__ = ("_admitted", "_answers", "_background")

    def __init__(self, admitted: dict[bool, int], answers: int, background: bool) -> None:
        self._admitted = admitted
        self._answers = answers
        self._background = background

    def __enter__(self) -> None:
        self._admitted[self._background] += self._answers

    def __exit__(self, *_: object) -> None:
        self._admitted[self._background] -= self._answers


class Slot:
    """What `SlotQueue.slot` gives."""

    __slots__ = ("_began", "_charged", "_flow", "_line", "_on_wait", "_owner", "_queue", "_weight")

    def __init__(
        self,
        queue: SlotQueue,
        line: Line,
        owner: str,
        weight: float,
        on_wait: Callable[[Ticket], None] | None,
    ) -> None:
        self._queue = queue
        self._line = line
        self._owner = owner
        self._weight = weight
        self._on_wait = on_wait

    async def __aenter__(self) -> None:
        queue, line = self._queue, self._line
        flow = self._flow = line.flow(self._owner, self._weight)
        if not line.waiting and queue.may_begin(line):
            self._charged = queue.begin(line, flow)
        else:
            ticket = Ticket(queue, line, flow)
            if self._on_wait is not None:
                self._on_wait(ticket)
            await queue.wait(ticket)
            self._charged = ticket.charged
        self._began = queue.clock()

    async def __aexit__(self, *_: object) -> None:
        queue = self._queue
        held_s = queue.clock() - self._began
        queue.usual_s += 0.1 * (held_s - queue.usual_s)
        queue.give_back(self._line, self._flow, self._charged, held_s)
