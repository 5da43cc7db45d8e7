"""The way to Redis: what is asked together travels together, and only silence is a loss."""

import asyncio
import contextlib
import time

import pytest
from redis.asyncio import Redis

from galley.stores.limiter_shared import RESERVE, SETTLE
from galley.stores.redis_pipe import LostError, RedisPipe, end
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio


async def round_trips(client: Redis) -> int:
    return int((await client.info("stats"))["total_reads_processed"])


async def test_what_is_asked_at_the_same_time_travels_together(redis_client: Redis):
    pipe = RedisPipe(redis_client, [])
    await pipe.send("PING")
    before = await round_trips(redis_client)

    answers = await asyncio.gather(*(pipe.send("INCR", "n") for _ in range(100)))

    assert answers == list(range(1, 101))
    assert await round_trips(redis_client) - before <= 4


async def test_a_command_that_is_refused_is_no_loss_to_its_neighbours(redis_client: Redis):
    pipe = RedisPipe(redis_client, [])

    answers = await asyncio.gather(
        pipe.send("SET", "a", 1), pipe.send("HGET", "a", "b"), pipe.send("GET", "a"),
        return_exceptions=True,
    )  # fmt: skip

    assert answers[2] == b"1"
    assert isinstance(answers[1], LostError)


async def test_who_hangs_up_takes_nothing_from_the_others(redis_client: Redis):
    pipe = RedisPipe(redis_client, [])
    asked = [asyncio.ensure_future(pipe.send("INCR", "n")) for _ in range(10)]

    asked[3].cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert answers[4:] == [5, 6, 7, 8, 9, 10]


async def test_a_connection_that_was_closed_meanwhile_costs_nobody_an_answer(
    redis_client: Redis, redis_server: RedisServer
):
    pipe = RedisPipe(redis_client, [])
    await pipe.send("SET", "n", 1)
    async with redis_server.client() as other:
        closed = await other.client_kill_filter(_type="normal", skipme=True)

    answers = await asyncio.gather(*(pipe.send("INCR", "n") for _ in range(3)))

    assert closed >= 1
    assert answers == [2, 3, 4]


async def test_who_closes_it_waits_for_what_is_under_way_and_leaves_no_connection(
    redis_client: Redis, redis_server: RedisServer
):
    async with redis_server.client() as other:
        before = len(await other.client_list())
        pipe = RedisPipe(redis_client, [])
        pipe.send("SET", "n", 1)

        await pipe.aclose()

        assert await other.get("n") == b"1"
        assert len(await other.client_list()) <= before


async def test_a_loop_that_is_held_up_does_not_take_redis_for_lost(redis_client: Redis):
    pipe = RedisPipe(redis_client, [], timeout_s=0.1)
    await pipe.send("PING")

    for turns in range(10):
        asked = pipe.send("INCR", "n")
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251 - to hold up the loop

        assert await asked


async def test_a_loop_that_is_late_at_every_turn_does_not_take_redis_for_lost(
    own_redis: RedisServer,
):
    async def hold_up() -> None:
        while True:
            time.sleep(0.03)  # noqa: ASYNC251 - so it is, with too many threads
            await asyncio.sleep(0)

    async with own_redis.client() as client:
        pipe = RedisPipe(client, [RESERVE, SETTLE] * 4, timeout_s=0.1)
        await pipe.send("PING")
        holding_up = asyncio.create_task(hold_up())
        # Redis does not know the scripts yet: many round trips, of several turns each.
        settled = pipe.run(SETTLE, ["held", "settled"], "a", "settle", "{}")
        await asyncio.wait([settled])
        holding_up.cancel()

    assert settled.exception() is None


async def test_silence_is_a_loss_to_all_who_wait_at_the_same_moment(own_redis: RedisServer):
    async with own_redis.client() as client:
        pipe = RedisPipe(client, [], timeout_s=0.1)
        await pipe.send("PING")
        own_redis.hang()
        first = pipe.send("PING")
        await asyncio.sleep(0.05)
        rest = [pipe.send("PING") for _ in range(300)]

        with pytest.raises(LostError):
            await first
        told = [isinstance(answer.exception(), LostError) for answer in rest]
        own_redis.go_on()
        again = await pipe.send("PING")

    assert told == [True] * 300
    assert again


async def test_a_task_ends_even_if_the_client_swallows_a_cancellation():
    async def swallowing() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = asyncio.create_task(swallowing())
    await asyncio.sleep(0)

    await end(task)

    assert task.cancelled()
