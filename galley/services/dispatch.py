"""Asks the models of a plan, one after the other, until one answers.

The only place that tries again: at most three attempts, and never once something has left.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from galley.core.errors import GalleyError, OverloadedError, RateLimitError
from galley.engines.base import Engine
from galley.services.breaker import State
from galley.services.models import Loaded, Replica

E = TypeVar("E", bound=Engine)
P = TypeVar("P")

MOST_ATTEMPTS = 3
BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 2.0
LONGEST_WAIT_S = 5.0
"""Who is told to come back later than this is not kept waiting."""

_OUR_OWN = frozenset({"queue_full", "model_loading", "model_not_loaded", "server_stopping"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try: where, how it ended (`ok` or an error's code), and how long it took."""

    model: str
    replica: int
    breaker: State
    outcome: str
    ms: float


class Budget:
    """Lets a tenth of all requests be tried again, so that retries never pile up on an outage.

    Source: Google, Site Reliability Engineering, 2016, chapter 21, "Deciding to Retry".
    """

    SHARE = 0.1
    RESERVE = 10.0

    def __init__(self) -> None:
        self._left = self.RESERVE

    def earn(self) -> None:
        """A request came."""
        self._left = min(self.RESERVE, self._left + self.SHARE)

    def spend(self) -> bool:
        """Say whether one may be tried again, and take it."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class _Course(Generic[E]):
    """How far one request has come."""

    targets: Sequence[Loaded[E]]
    tried: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    full: set[int] = field(default_factory=set[int])
    error: GalleyError | None = None

    def next(self) -> tuple[int, int] | None:
        """Choose a target and a replica: what was tried least, then the plan's order."""
        found = [
            (self.tried.get((t, r), 0), t, replica.busy, r)
            for t, target in enumerate(self.targets)
            if t not in self.full
            for r, replica in enumerate(target.replicas)
            if replica.breaker.admits and (target.settings.remote or (t, r) not in self.tried)
        ]
        if not found:
            return None
        _, t, _, r = min(found)
        return t, r


class Dispatch:
    """Walks plans.

    Args:
        draw: a number from 0 to 1, for the jitter of pauses.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._budget = Budget()

    async def stream(
        self,
        targets: Sequence[Loaded[E]],
        attempts: list[Attempt],
        ask: Callable[[Loaded[E], Replica[E]], AsyncGenerator[P]],
        *,
        counts: Callable[[P], bool] = lambda _: True,
    ) -> AsyncGenerator[P]:
        """Yield what the first target yields that answers.

        Args:
            attempts: what was tried is appended, for the receipt.
            ask: begins one attempt.
            counts: whether a piece reaches the caller; until one does, others can be asked.
        Raises:
            GalleyError: what the last attempt raised.
            OverloadedError: nobody was asked, since all have failed lately (`circuit_open`).
        """
        self._budget.earn()
        course = _Course(targets)
        while len(attempts) < MOST_ATTEMPTS and (found := await self._choose(course)) is not None:
            target, replica = targets[found[0]], targets[found[0]].replicas[found[1]]
            begun = False
            try:
                async with aclosing(self._attempt(target, replica, found[1], attempts, ask)) as got:
                    async for piece in got:
                        if not begun and counts(piece):
                            begun = True
                            replica.breaker.answered()
                        yield piece
                return
            except GalleyError as error:
                if begun or not _goes_on(error):
                    raise
                course.error = error
                course.tried[found] = course.tried.get(found, 0) + 1
                if not _is_theirs(error):
                    course.full.add(found[0])
        raise course.error or _all_failing(targets)

    async def call(
        self,
        targets: Sequence[Loaded[E]],
        attempts: list[Attempt],
        ask: Callable[[Loaded[E], Replica[E]], Awaitable[P]],
    ) -> P:
        """Return what the first target gives that answers; else as `stream`."""

        async def once(target: Loaded[E], replica: Replica[E]) -> AsyncGenerator[P]:
            yield await ask(target, replica)

        async with aclosing(self.stream(targets, attempts, once)) as answers:
            (answer,) = [answer async for answer in answers]
        return answer

    async def _attempt(
        self,
        target: Loaded[E],
        replica: Replica[E],
        number: int,
        attempts: list[Attempt],
        ask: Callable[[Loaded[E], Replica[E]], AsyncGenerator[P]],
    ) -> AsyncGenerator[P]:
        breaker, before, began = replica.breaker, replica.breaker.state, self._clock()
        outcome = "cancelled"
        breaker.begin()
        replica.busy += 1
        try:
            async with aclosing(ask(target, replica)) as pieces:
                async for piece in pieces:
                    yield piece
            outcome = "ok"
        except GalleyError as error:
            outcome = error.code or type(error).__name__
            if target.settings.remote and _is_theirs(error):  # a child of ours is looked after
                breaker.failed()
            raise
        finally:
            replica.busy -= 1
            if outcome == "ok":
                breaker.succeeded()
            else:
                breaker.left()
            ms = round(1000 * (self._clock() - began), 3)
            attempts.append(Attempt(target.name, number, before, outcome, ms))

    async def _choose(self, course: _Course[E]) -> tuple[int, int] | None:
        """Choose whom to ask next; None when nobody is worth it."""
        found = course.next()
        if found is not None and course.tried.get(found):
            # Who was well before the pause may have failed others during it.
            return course.next() if await self._may_repeat(course) else None
        return found

    async def _may_repeat(self, course: _Course[E]) -> bool:
        """Wait until the same server may be asked again; False if that is not worth it."""
        repeats = max(course.tried.values())
        pause = self._draw() * min(LONGEST_BACKOFF_S, BACKOFF_S * 2**repeats)
        told = _told_s(course.error)
        if told > LONGEST_WAIT_S or not self._budget.spend():
            return False
        await asyncio.sleep(max(pause, told))
        return True


def _told_s(error: GalleyError | None) -> float:
    """For how long a server said that it wants to be left alone."""
    if isinstance(error, OverloadedError) and error.is_told:
        return error.retry_after or 0.0
    return 0.0


def _goes_on(error: GalleyError) -> bool:
    """Whether somebody else, or the same one later, may do better."""
    return error.status in (502, 503, 504) or isinstance(error, RateLimitError)


def _is_theirs(error: GalleyError) -> bool:
    """Whether it is the fault of whoever was asked, and not of the request or of ours."""
    return error.status in (502, 503, 504) and error.code not in _OUR_OWN


def _all_failing(targets: Sequence[Loaded[E]]) -> OverloadedError:
    waits = [replica.breaker.admits_in_s for target in targets for replica in target.replicas]
    return OverloadedError(
        f"The model {targets[0].name!r} has been failing and is given a rest. Try again soon.",
        code="circuit_open",
        retry_after=max(1.0, min(waits, default=1.0)),
    )
