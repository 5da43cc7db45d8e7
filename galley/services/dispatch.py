"""Asks the models of a plan, one after the other, until one answers.

The only place that tries again: at most three attempts, and never once something has left.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from galley.core import tracing
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

_OUR_OWN = frozenset(
    {"queue_full", "queue_timeout", "model_loading", "model_not_loaded", "server_stopping"}
)


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
        self.clock = clock
        self.draw = draw
        self.budget = Budget()

    def course(self, targets: Sequence[Loaded[E]], attempts: list[Attempt]) -> "Course[E]":
        """Begin with a request.

        Args:
            attempts: what was tried is appended, for the receipt.
        """
        self.budget.earn()
        return Course(self, targets, attempts)

    async def call(
        self,
        targets: Sequence[Loaded[E]],
        attempts: list[Attempt],
        ask: Callable[[Loaded[E], Replica[E]], Awaitable[P]],
    ) -> P:
        """Return what the first target gives that answers; raises as `Course`."""
        async for turn in self.course(targets, attempts):
            with turn:
                return await ask(turn.target, turn.replica)
        raise AssertionError("a course ends by raising")


class Course(Generic[E]):
    """Whom to ask for one request: `async for turn in course: with turn: ...`, until one answers.

    Raises:
        GalleyError: what the last turn raised.
        OverloadedError: nobody was asked, since all have failed lately (`circuit_open`).
    """

    __slots__ = ("_dispatch", "_error", "_full", "_targets", "_tried", "attempts")

    def __init__(
        self, dispatch: Dispatch, targets: Sequence[Loaded[E]], attempts: list[Attempt]
    ) -> None:
        self.attempts = attempts
        self._dispatch = dispatch
        self._targets = targets
        self._tried: dict[tuple[int, int], int] = {}
        self._full: set[int] = set()
        self._error: GalleyError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> "Turn[E]":
        if len(self.attempts) < MOST_ATTEMPTS and (found := await self._choose()) is not None:
            target, replica = found
            return Turn(
                self,
                found,
                self._targets[target],
                self._targets[target].replicas[replica],
                self._dispatch.clock,
            )
        raise self._error or _all_failing(self._targets)

    def failed(self, place: tuple[int, int], error: GalleyError) -> None:
        """Take note that a turn ended by an error that another may do better."""
        self._error = error
        self._tried[place] = self._tried.get(place, 0) + 1
        if not _is_theirs(error):
            self._full.add(place[0])

    async def _choose(self) -> tuple[int, int] | None:
        """Choose whom to ask next; None when nobody is worth it."""
        found = self._next()
        if found is not None and self._tried.get(found):
            # Who was well before the pause may have failed others during it.
            return self._next() if await self._may_repeat() else None
        return found

    def _next(self) -> tuple[int, int] | None:
        """Choose a target and a replica: what was tried least, then the plan's order."""
        found = [
            (self._tried.get((t, r), 0), t, replica.busy, r)
            for t, target in enumerate(self._targets)
            if t not in self._full
            for r, replica in enumerate(target.replicas)
            if replica.breaker.admits and (target.settings.remote or (t, r) not in self._tried)
        ]
        if not found:
            return None
        _, t, _, r = min(found)
        return t, r

    async def _may_repeat(self) -> bool:
        """Wait until the same server may be asked again; False if that is not worth it."""
        repeats = max(self._tried.values())
        pause = self._dispatch.draw() * min(LONGEST_BACKOFF_S, BACKOFF_S * 2**repeats)
        told = _told_s(self._error)
        if told > LONGEST_WAIT_S or not self._dispatch.budget.spend():
            return False
        await asyncio.sleep(max(pause, told))
        return True


class Turn(Generic[E]):
    """One attempt, as a context; an error that another may do better does not leave it."""

    __slots__ = (
        "_before", "_began", "_clock", "_course", "_place", "_span", "begun", "replica", "target",
    )  # fmt: skip

    def __init__(
        self,
        course: Course[E],
        place: tuple[int, int],
        target: Loaded[E],
        replica: Replica[E],
        clock: Callable[[], float],
    ) -> None:
        self.target = target
        self.replica = replica
        self.begun = False
        self._course = course
        self._place = place
        self._clock = clock
        self._before: State = replica.breaker.state
        self._began = 0.0
        self._span: tracing.Attempt | None = None

    def __enter__(self) -> Self:
        if (trace := tracing.current.get()) is not None:
            settings = self.target.settings
            provider = settings.protocol if settings.remote else "galley"
            self._span = trace.attempt(self.target.name, provider)
        self._began = self._clock()
        self.replica.breaker.begin()
        self.replica.busy += 1
        return self

    def answered(self) -> None:
        """The first piece reaches the caller: nobody else is asked from now on."""
        self.begun = True
        self.replica.breaker.answered()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        breaker, outcome = self.replica.breaker, "cancelled"
        self.replica.busy -= 1
        if error is None:
            outcome = "ok"
            breaker.answered()
            breaker.succeeded()
        else:
            if isinstance(error, GalleyError):
                outcome = error.code or type(error).__name__
                if self.target.settings.remote and _is_theirs(error):  # else it is looked after
                    breaker.failed()
            breaker.left()
        ms = round(1000 * (self._clock() - self._began), 3)
        attempt = Attempt(self.target.name, self._place[1], self._before, outcome, ms)
        self._course.attempts.append(attempt)
        if self._span is not None:
            self._span.end(outcome)
        if not isinstance(error, GalleyError) or self.begun or not _goes_on(error):
            return False
        self._course.failed(self._place, error)
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
