"""Servers that share a Redis: exact between them, and one that dies holds nothing for long."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from galley.stores.limiter import Limiter
from galley.stores.limiter_redis import RedisLimiter
from galley.stores.limiter_shared import ALIVE_S, PREFIX, alive_key
from tests.redis_server import RedisServer
from tests.stores.books import Books, Clock, demand, until

pytestmark = pytest.mark.anyio

RESERVE_MANY = Path(__file__).with_name("reserve_many.py")
TOKENS = demand("tokens", "day", 1000, 100)
RUNNING = demand("concurrency", "now", 3)

Open = Callable[[str], RedisLimiter]


@pytest.fixture
async def server(redis_server: RedisServer, books: Books) -> AsyncGenerator[Open]:
    """Open the limiter of another server, by its id."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(redis_server.client())

        def open_limiter(instance_id: str) -> RedisLimiter:
            limiter = RedisLimiter(
                client, books.spent, books.outcomes, instance_id=instance_id, clock=Clock()
            )
            stack.push_async_callback(limiter.aclose)
            return limiter

        yield open_limiter


async def left(limiter: Limiter) -> list[int]:
    """What is left of TOKENS and RUNNING."""
    asked = [demand("tokens", "day", 1000, 0), demand("concurrency", "now", 3, 0)]
    verdict = await limiter.reserve("only-looks", asked)
    await limiter.settle("only-looks", asked, {})
    return [state.remaining for state in verdict.states]


async def released(client: Redis, instance_id: str) -> None:
    """Wait until the survivors are done with an instance."""

    async def forgotten() -> bool:
        return not await client.sismember(f"{PREFIX}:instances", instance_id)

    await until(forgotten)


async def test_two_servers_let_in_exactly_the_limit_between_them(server: Open):
    one, other = server("one"), server("other")
    demands = [demand("requests", "minute", 50), demand("tokens", "day", 10**6, 100)]

    verdicts = await asyncio.gather(
        *(one.reserve(f"one-{n}", demands) for n in range(64)),
        *(other.reserve(f"other-{n}", demands) for n in range(64)),
    )

    assert sum(verdict.refused is None for verdict in verdicts) == 50


def test_processes_let_in_exactly_the_limit_between_them(redis_server: RedisServer):
    commands = [
        [sys.executable, RESERVE_MANY, redis_server.socket, f"server-{n}", "150", "burst"]
        for n in range(4)
    ]

    servers = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in commands]
    told = [server.communicate(timeout=50)[0] for server in servers]

    assert sum(int(admitted) for admitted in told) == 150


async def test_what_one_reserved_the_other_sees_settled(server: Open):
    one, other = server("one"), server("other")
    await one.reserve("a", [TOKENS, RUNNING])
    before = await left(other)

    await one.settle("a", [TOKENS, RUNNING], {"tokens": 30})

    assert before == [900, 2]
    assert await left(other) == [970, 3]


async def test_what_the_dead_held_is_settled_with_what_the_ledger_says(
    server: Open, books: Books, redis_client: Redis
):
    dead = server("dead")
    for name in ("answered", "interrupted"):
        await dead.reserve(name, [TOKENS, RUNNING])
    books.results["answered"] = {"tokens": 40}
    await redis_client.delete(alive_key("dead"))

    survivors = [server("one"), server("two"), server("three")]
    await released(redis_client, "dead")

    assert await left(survivors[0]) == [960, 3]


async def test_what_the_living_hold_stays_theirs(server: Open, redis_client: Redis):
    living = server("living")
    await living.reserve("a", [TOKENS, RUNNING])
    await redis_client.delete(alive_key("dead"))
    await redis_client.sadd(f"{PREFIX}:instances", "dead")

    other = server("other")
    await released(redis_client, "dead")

    assert await left(other) == [900, 2]


async def test_who_was_taken_for_dead_and_settles_later_is_counted(
    server: Open, redis_client: Redis
):
    slow = server("slow")
    await slow.reserve("a", [TOKENS, RUNNING])
    await redis_client.delete(alive_key("slow"))
    other = server("other")
    await released(redis_client, "slow")

    await slow.settle("a", [TOKENS, RUNNING], {"tokens": 70})

    assert await left(other) == [930, 3]


async def test_who_was_taken_for_dead_and_tells_later_what_the_ledger_said_counts_once(
    server: Open, books: Books, redis_client: Redis
):
    cut_off = server("cut off")
    await cut_off.reserve("a", [TOKENS, RUNNING])
    books.results["a"] = {"tokens": 70}  # the ledger could be reached all the time
    await redis_client.delete(alive_key("cut off"))
    other = server("other")
    await released(redis_client, "cut off")

    await cut_off.settle("a", [TOKENS, RUNNING], {"tokens": 70})

    assert await left(other) == [930, 3]


async def test_a_ledger_that_fails_holds_up_the_release_and_nothing_else(
    server: Open, books: Books, redis_client: Redis
):
    dead = server("dead")
    await dead.reserve("a", [TOKENS])
    await redis_client.delete(alive_key("dead"))
    books.outcomes_broken = True

    other = server("other")
    async with asyncio.timeout(5):
        await books.outcomes_asked.wait()

    assert other.problem is None
    assert (await left(other))[0] == 900
    assert await redis_client.sismember(f"{PREFIX}:instances", "dead")


@pytest.mark.slow
async def test_a_server_that_was_killed_holds_nothing_after_a_minute(
    redis_server: RedisServer, server: Open
):
    arguments = [redis_server.socket, "killed", "100", "forever"]
    killed = await asyncio.create_subprocess_exec(
        sys.executable, RESERVE_MANY, *arguments, stdout=subprocess.PIPE
    )
    assert killed.stdout
    assert await killed.stdout.readline() == b"100\n"
    other = server("other")
    before = await running_of_user(other)

    killed.kill()
    await killed.communicate()
    await asyncio.sleep(60.0)

    assert before == 100
    assert await running_of_user(other) == 0


async def running_of_user(limiter: Limiter) -> int:
    asked = [demand("concurrency", "now", 1000, 0)]
    verdict = await limiter.reserve("only-looks", asked)
    await limiter.settle("only-looks", asked, {})
    return 1000 - verdict.states[0].remaining


async def test_a_server_that_stops_leaves_what_it_holds_to_the_others_at_once(
    server: Open, redis_client: Redis
):
    stopped = server("stopped")
    await stopped.reserve("a", [TOKENS, RUNNING])

    await stopped.aclose()
    other = server("other")
    await released(redis_client, "stopped")

    assert await left(other) == [1000, 3]


async def test_a_sign_of_life_is_given_at_once_and_does_not_last(server: Open, redis_client: Redis):
    server("one")

    await until(lambda: redis_client.exists(alive_key("one")))

    assert 0 < await redis_client.ttl(alive_key("one")) <= ALIVE_S


async def test_redis_may_forget_the_scripts(server: Open, redis_client: Redis):
    one = server("one")
    await one.reserve("a", [TOKENS])

    await redis_client.script_flush()
    verdicts = await asyncio.gather(*(one.reserve(f"b-{n}", [TOKENS]) for n in range(64)))
    await redis_client.script_flush()
    await one.settle("a", [TOKENS], {"tokens": 100})

    assert one.problem is None
    assert sum(verdict.refused is None for verdict in verdicts) == 9


async def test_redis_that_forgot_everything_begins_with_what_the_ledger_says(
    server: Open, books: Books, redis_client: Redis
):
    one = server("one")
    await one.reserve("a", [TOKENS, RUNNING])
    books.used[TOKENS.counter] = 400

    await redis_client.flushall()

    assert await left(one) == [600, 3]


async def test_what_redis_forgot_is_counted_when_it_settles(server: Open, redis_client: Redis):
    one = server("one")
    await one.reserve("a", [TOKENS, RUNNING])
    await redis_client.flushall()
    await one.reserve("b", [TOKENS, RUNNING])

    await one.settle("a", [TOKENS, RUNNING], {"tokens": 60})

    assert await left(one) == [840, 2]


async def test_who_hangs_up_while_redis_is_asked_holds_nothing(server: Open, redis_client: Redis):
    one = server("one")
    for number in range(20):
        asking = asyncio.create_task(one.reserve(f"a-{number}", [TOKENS, RUNNING]))
        await asyncio.sleep(0.0001 * number)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        if not asking.cancelled():
            await one.settle(f"a-{number}", [TOKENS, RUNNING], {})

    async def nothing_held() -> bool:
        return not await redis_client.exists(f"{PREFIX}:held:one")

    await until(nothing_held)

    assert one.problem is None
    assert await left(one) == [1000, 3]


async def test_everything_in_redis_ends_some_day(server: Open, redis_client: Redis):
    one = server("one")
    every = [
        demand("requests", "minute", 9),
        demand("requests", "day", 9),
        demand("cost", "month", 9),
        demand("cost", "ever", 9),
        RUNNING,
    ]
    await one.reserve("a", every)
    await one.reserve("b", every)
    await one.settle("b", every, {"requests": 1})
    await one.aclose()
    await server("two").reserve("c", every)

    async def beaten() -> bool:
        return await redis_client.ttl(f"{PREFIX}:instances") > 0

    await until(beaten)
    times = {key: await redis_client.ttl(key) for key in await redis_client.keys()}

    assert len(times) >= 7
    # -1: it never ends. One that was about to may have ended just now, which is -2.
    assert {key for key, ttl in times.items() if ttl == -1 or ttl > 33 * 86_400} == set()


async def test_redis_keeps_the_time_when_no_other_clock_is_given(redis_client: Redis, books: Books):
    limiter = RedisLimiter(redis_client, books.spent, books.outcomes, instance_id="one")
    once = [demand("requests", "minute", 1)]

    await limiter.reserve("a", once)
    since = time.time()
    refused = await limiter.reserve("b", once)
    await limiter.aclose()

    assert refused.retry_after_s
    assert 60.0 - (time.time() - since) - 1.0 < refused.retry_after_s <= 60.0
