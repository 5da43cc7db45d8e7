"""Redis goes away and comes back: nobody waits for it, nothing that was settled is forgotten."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from galley.core.errors import OverloadedError
from galley.stores.limiter_redis import RedisLimiter
from tests.redis_server import RedisServer
from tests.stores.books import Books, Clock, demand, until

pytestmark = pytest.mark.anyio

Lost = Literal["local", "open", "closed"]

TOKENS = demand("tokens", "day", 1000, 100)
ENDINGS: dict[str, tuple[Callable[[RedisServer], None], Callable[[RedisServer], None]]] = {
    "is killed": (RedisServer.stop, RedisServer.start),
    "hangs": (RedisServer.hang, RedisServer.go_on),
}


@asynccontextmanager
async def limiting(
    server: RedisServer, books: Books, lost: Lost = "local", clock: Clock | None = None
) -> AsyncGenerator[RedisLimiter]:
    async with server.client() as client:
        limiter = RedisLimiter(
            client, books.spent, books.outcomes, instance_id="one", lost=lost, clock=clock
        )
        yield limiter
        await limiter.aclose()


async def until_lost(limiter: RedisLimiter) -> str:
    """Wait until it notices; returns what it says."""

    async def lost() -> bool:
        return limiter.problem is not None

    await until(lost)
    assert limiter.problem
    return limiter.problem


async def until_found(limiter: RedisLimiter) -> None:
    async def found() -> bool:
        return limiter.problem is None

    await until(found)


class Load:
    """Clients that reserve and settle without a pause, and what came of it."""

    def __init__(self, limiter: RedisLimiter, limit: int) -> None:
        self.limiter = limiter
        self.demands = [
            demand("requests", "minute", limit),
            demand("tokens", "day", 10**9, 100),
            demand("concurrency", "now", 64),
        ]
        self.slowest_s = 0.0
        self.answers = Counter[str]()
        self._stop = False

    async def client(self, number: int) -> None:
        count = 0
        while not self._stop:
            count += 1
            name = f"{number}-{count}"
            began = time.monotonic()
            try:
                verdict = await self.limiter.reserve(name, self.demands)
                answer = "refused" if verdict.refused else "admitted"
            except OverloadedError as error:
                answer = f"{error.code}, {error.retry_after}"
            if answer == "admitted":
                await self.limiter.settle(name, self.demands, {"requests": 1, "tokens": 10})
            self.answers[answer] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self, clients: int = 16) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self.client(number))
            yield
            self._stop = True


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("lost", ["local", "open", "closed"])
async def test_under_load_nobody_waits_for_a_redis_that(
    own_redis: RedisServer, books: Books, lost: Lost, ending: str
):
    end, begin = ENDINGS[ending]
    async with limiting(own_redis, books, lost) as limiter:
        load = Load(limiter, limit=10**6)
        async with load.running():
            await asyncio.sleep(0.2)
            assert limiter.problem is None
            end(own_redis)
            problem = await until_lost(limiter)
            load.answers.clear()
            await asyncio.sleep(0.5)
            without = set(load.answers)
            begin(own_redis)
            await until_found(limiter)
            load.answers.clear()
            await asyncio.sleep(0.2)
            after = set(load.answers)

    assert problem.startswith("Redis is lost")
    assert without == ({"limiter_unavailable, 1.0"} if lost == "closed" else {"admitted"})
    assert after == {"admitted"}
    assert load.slowest_s < 1.0


async def test_without_redis_each_server_keeps_the_full_limit_itself(
    own_redis: RedisServer, books: Books
):
    own_redis.stop()
    async with limiting(own_redis, books) as limiter:
        verdicts = [
            await limiter.reserve(f"a-{n}", [demand("requests", "minute", 5)]) for n in range(8)
        ]

    assert [verdict.refused is None for verdict in verdicts] == [True] * 5 + [False] * 3


async def test_without_redis_days_begin_with_what_the_ledger_says(
    own_redis: RedisServer, books: Books
):
    books.used[TOKENS.counter] = 750
    own_redis.stop()
    async with limiting(own_redis, books) as limiter:
        verdicts = [await limiter.reserve(f"a-{n}", [TOKENS]) for n in range(4)]

    assert [verdict.refused is None for verdict in verdicts] == [True, True, False, False]


async def test_open_lets_everybody_in(own_redis: RedisServer, books: Books):
    own_redis.stop()
    async with limiting(own_redis, books, "open") as limiter:
        verdicts = [await limiter.reserve(f"a-{n}", [TOKENS]) for n in range(20)]

    assert all(verdict.refused is None for verdict in verdicts)


@pytest.mark.parametrize("lost", ["local", "open"])
async def test_what_was_settled_meanwhile_is_told_when_redis_is_back(
    own_redis: RedisServer, books: Books, lost: Lost
):
    clock = Clock()
    async with limiting(own_redis, books, lost, clock) as limiter:
        await limiter.reserve("before", [TOKENS])
        await limiter.reserve("stays", [TOKENS])
        own_redis.hang()
        await limiter.reserve("without", [TOKENS])
        assert limiter.problem
        await limiter.reserve("longer", [TOKENS])
        await limiter.settle("before", [TOKENS], {"tokens": 20})
        await limiter.settle("without", [TOKENS], {"tokens": 30})

        own_redis.go_on()
        await until_found(limiter)
        await limiter.settle("longer", [TOKENS], {"tokens": 40})
        verdict = await limiter.reserve("looks", [demand("tokens", "day", 1000, 0)])

    # What `stays` holds, and what the three others used.
    assert verdict.states[0].remaining == 1000 - 100 - 20 - 30 - 40


async def test_a_settlement_whose_answer_was_lost_counts_once(own_redis: RedisServer, books: Books):
    async with limiting(own_redis, books, "open", Clock()) as limiter:
        await limiter.reserve("a", [TOKENS])
        own_redis.hang()
        # It lies in the socket, and is done when Redis goes on.
        await limiter.settle("a", [TOKENS], {"tokens": 20})
        assert limiter.problem
        own_redis.go_on()
        await until_found(limiter)
        verdict = await limiter.reserve("looks", [demand("tokens", "day", 1000, 0)])

    assert verdict.states[0].remaining == 980


async def test_what_ran_when_redis_was_lost_is_counted_without_it(
    own_redis: RedisServer, books: Books
):
    async with limiting(own_redis, books, "local") as limiter:
        await limiter.reserve("a", [TOKENS])
        own_redis.stop()
        await limiter.reserve("b", [TOKENS])

        await limiter.settle("a", [TOKENS], {"tokens": 60})
        verdict = await limiter.reserve("looks", [demand("tokens", "day", 1000, 0)])

    assert verdict.states[0].remaining == 1000 - 100 - 60


async def test_losing_redis_again_and_again_does_not_let_in_more(
    own_redis: RedisServer, books: Books
):
    five = [demand("requests", "minute", 5)]
    admitted = 0
    async with limiting(own_redis, books) as limiter:
        for loss in range(2):
            own_redis.hang()
            for number in range(8):
                verdict = await limiter.reserve(f"{loss}-{number}", five)
                admitted += verdict.refused is None
            own_redis.go_on()
            await until_found(limiter)

    assert admitted == 5


async def test_a_redis_that_refuses_to_write_is_as_good_as_lost(
    own_redis: RedisServer, books: Books
):
    async with own_redis.client() as client, limiting(own_redis, books, "closed") as limiter:
        await client.replicaof("127.0.0.1", "1")
        with pytest.raises(OverloadedError):
            await limiter.reserve("a", [TOKENS])
        problem = limiter.problem
        await client.replicaof("NO", "ONE")
        await until_found(limiter)

        verdict = await limiter.reserve("b", [TOKENS])

    assert problem
    assert "ReadOnlyError" in problem
    assert verdict.refused is None


async def test_a_server_may_start_before_redis_does(own_redis: RedisServer, books: Books):
    own_redis.stop()
    async with limiting(own_redis, books, "closed") as limiter:
        await until_lost(limiter)
        own_redis.start()
        await until_found(limiter)

        verdict = await limiter.reserve("a", [TOKENS])

    assert verdict.refused is None


async def test_closing_does_not_wait_for_a_redis_that_hangs(own_redis: RedisServer, books: Books):
    async with limiting(own_redis, books) as limiter:
        await limiter.reserve("a", [TOKENS])
        own_redis.hang()
        began = time.monotonic()
        await limiter.settle("a", [TOKENS], {"tokens": 1})
        await limiter.aclose()
        took_s = time.monotonic() - began
        own_redis.go_on()

    assert took_s < 1.5
