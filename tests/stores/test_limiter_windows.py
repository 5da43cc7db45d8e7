"""No interleaving at any times lets in more than the limit within 60 s, and waits are honest.

Held against a plain list of what was let in and when, in whole microseconds.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galley.stores.limiter import Limiter, Verdict
from galley.stores.limiter_calendar import MINUTE_US, SECOND_US, microseconds
from galley.stores.limiter_memory import MemoryLimiter
from galley.stores.limiter_redis import RedisLimiter
from tests.redis_server import RedisServer
from tests.stores.books import Books, Clock, demand

REQUESTS, TOKENS = 5, 100

reserving = st.tuples(st.just("reserve"), st.integers(1, 60))
settling = st.tuples(st.just("settle"), st.integers(0, 60))
passing = st.tuples(
    st.just("pass"), st.one_of(st.integers(0, 3 * SECOND_US), st.integers(0, 70 * SECOND_US))
)
returning = st.tuples(st.just("return as told"), st.integers(1, 60))
histories = st.lists(st.one_of(reserving, settling, passing, returning), max_size=60)


@dataclass(slots=True)
class Admitted:
    """A request that was let in; `tokens` are those it reserved, then those it used."""

    name: str
    at: int
    tokens: int
    settled: bool = False


class Story:
    """What happens to one limiter, and the list it is held against."""

    def __init__(self, limiter: Limiter, clock: Clock) -> None:
        self.limiter = limiter
        self.clock = clock
        self.now = microseconds(clock())
        self.log: list[Admitted] = []
        self.told_us = 0

    async def live(self, history: list[tuple[str, int]]) -> None:
        for number, (what, value) in enumerate(history):
            if what == "pass":
                self.move(value)
            elif what == "settle":
                await self.settle(value)
            elif what == "reserve":
                await self.reserve(f"request-{number}", value)
            else:
                await self.return_as_told(f"request-{number}", value)
        self.check_every_window()

    def move(self, by_us: int) -> None:
        self.now += by_us
        self.clock.now = self.now / SECOND_US

    async def reserve(self, name: str, tokens: int) -> Verdict:
        demands = [
            demand("requests", "minute", REQUESTS),
            demand("tokens", "minute", TOKENS, tokens),
        ]
        verdict = await self.limiter.reserve(name, demands)
        waited = self.shortest_wait(tokens)
        if verdict.refused is None:
            assert waited == 0, "more than the limit was let in"
            self.log.append(Admitted(name, self.now, tokens))
        else:
            assert verdict.retry_after_s is not None
            told = microseconds(verdict.retry_after_s)
            assert waited <= told < waited + SECOND_US, "too early, or later than it need be"
        return verdict

    async def return_as_told(self, name: str, tokens: int) -> None:
        refused = await self.reserve(name, tokens)
        if refused.retry_after_s is not None:
            self.move(microseconds(refused.retry_after_s))
            admitted = await self.reserve(f"{name}-again", tokens)
            assert admitted.refused is None, "not let in at the moment it was told"

    async def settle(self, percent: int) -> None:
        running = [request for request in self.log if not request.settled]
        if running:
            request = running[percent % len(running)]
            used = request.tokens * percent // 60
            demands = [
                demand("requests", "minute", REQUESTS),
                demand("tokens", "minute", TOKENS, request.tokens),
            ]
            await self.limiter.settle(request.name, demands, {"requests": 1, "tokens": used})
            request.settled, request.tokens = True, used

    def shortest_wait(self, tokens: int) -> int:
        """How long a request really has to wait, by the list."""
        ends = [0] + [r.at + MINUTE_US - self.now for r in self.log if r.at > self.now - MINUTE_US]
        return next(end for end in sorted(ends) if self.fits(self.now + end, tokens))

    def fits(self, at: int, tokens: int) -> bool:
        requests, used = self.within_a_minute(at)
        return requests + 1 <= REQUESTS and used + tokens <= TOKENS

    def within_a_minute(self, at: int) -> tuple[int, int]:
        found = [request for request in self.log if at - MINUTE_US < request.at <= at]
        return len(found), sum(request.tokens for request in found)

    def check_every_window(self) -> None:
        for request in self.log:
            requests, tokens = self.within_a_minute(request.at)
            assert requests <= REQUESTS
            assert tokens <= TOKENS


@asynccontextmanager
async def in_memory(clock: Clock) -> AsyncGenerator[Limiter]:
    yield MemoryLimiter(Books().spent, clock=clock)


@asynccontextmanager
async def in_redis(clock: Clock, server: RedisServer) -> AsyncGenerator[Limiter]:
    books = Books()
    async with server.client() as client:
        await client.flushall()
        limiter = RedisLimiter(client, books.spent, books.outcomes, instance_id="a", clock=clock)
        yield limiter
        assert limiter.problem is None
        await limiter.aclose()


@given(histories)
def test_no_history_breaks_the_limit_in_memory(history: list[tuple[str, int]]):
    async def live() -> None:
        clock = Clock()
        async with in_memory(clock) as limiter:
            await Story(limiter, clock).live(history)

    asyncio.run(live())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories)
def test_no_history_breaks_the_limit_in_redis(
    redis_server: RedisServer, history: list[tuple[str, int]]
):
    async def live() -> None:
        clock = Clock()
        async with in_redis(clock, redis_server) as limiter:
            await Story(limiter, clock).live(history)

    asyncio.run(live())


@pytest.mark.parametrize("burst_us", [0, 1, 999_999, 1_000_000, 59_999_999])
def test_the_list_itself_sees_a_limit_that_is_broken(burst_us: int):
    story = Story(MemoryLimiter(Books().spent, clock=Clock()), Clock())
    story.log = [Admitted(str(n), n * burst_us // REQUESTS, 0) for n in range(REQUESTS + 1)]

    with pytest.raises(AssertionError):
        story.check_every_window()
