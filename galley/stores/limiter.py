"""Limits: what may still be used. Checked and reserved in one step, settled once.

A reservation takes the worst case of everything that a request may need; settlement gives back
what was not needed. Two ways to keep them: in this process (`limiter_memory.py`), or in Redis for
servers that share them (`limiter_redis.py`).
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, Self

from galley.core.limits import Counter, Metric


class Demand(NamedTuple):
    """A limit that a request falls under, and the most that the request may take of it."""

    counter: Counter
    limit: int
    amount: int


class State(NamedTuple):
    """How a limit stands after a reservation was tried.

    Args:
        remaining: never below 0.
        reset_s: seconds until all of it is free again, if nothing more is asked for; infinite
            where it never is.
    """

    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may run, and how its limits stand, in the order of its demands.

    Args:
        refused: the demand that has to wait longest; None when all was reserved.
        retry_after_s: seconds until the same request would be let in, as far as is known now;
            None when it never would: it asks for more than the limit, or nothing comes back.
    """

    states: Sequence[State]
    refused: Demand | None = None
    retry_after_s: float | None = None

    @classmethod
    def refusal(cls, states: Sequence[State], waits: Sequence[tuple[Demand, float]]) -> Self:
        """Refuse, naming the demand of `waits` that has to wait longest."""
        demand, wait_s = max(waits, key=lambda pair: pair[1])
        return cls(states, demand, None if math.isinf(wait_s) else wait_s)


Spent = Callable[[Counter, datetime], Awaitable[int]]
"""What the ledger says was used of a `day`, `month` or `ever` counter since that moment."""

Outcomes = Callable[[Sequence[str]], Awaitable[Mapping[str, Mapping[Metric, int]]]]
"""What requests came to by the ledger, for those of them that settled."""


class Limiter(Protocol):
    """Keeps the counters. N servers that share one admit exactly the limit between them."""

    problem: str | None
    """What is the matter, None when nothing is."""

    async def reserve(self, request_id: str, demands: Sequence[Demand]) -> Verdict:
        """Take every demand, or none of them.

        Demands on one counter add up. Counters of days, months and ever that are not known yet
        begin with what the ledger says. Asked again for a request that holds its demands already,
        it takes nothing more. Who is cancelled while asking holds nothing, now or soon after.

        Raises:
            OverloadedError: the shared counters are lost, and that is to close the door.
        """
        ...

    async def settle(
        self, request_id: str, demands: Sequence[Demand], used: Mapping[Metric, int]
    ) -> None:
        """Replace what was reserved by what was used; what `used` does not name is given back.

        It counts where it was reserved: in that second, on that day. Only the first settlement
        of a request counts. What was used may be more than what was reserved. Comes after the
        ledger's commit. Never raises: what cannot be told now is told later.
        """
        ...

    async def aclose(self) -> None:
        """Settle what is still to be told, and stop."""
        ...
