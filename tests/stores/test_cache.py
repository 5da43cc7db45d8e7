"""What both ways to keep a cache have in common, and what each does alone."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from redis.asyncio import Redis

from galley.stores.cache import MAX_VALUE_BYTES, Cache
from galley.stores.cache_memory import MemoryCache
from galley.stores.cache_redis import PREFIX, RedisCache
from tests.redis_server import RedisServer
from tests.stores.books import until

pytestmark = pytest.mark.anyio

PATIENCE_S = 0.05 + 0.2  # what the contract says, and some for a busy machine


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncGenerator[Cache]:
    """Each kind in turn."""
    if request.param == "memory":
        yield MemoryCache(10_000_000)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with server.client() as client:
        cache = RedisCache(client)
        yield cache
        await cache.aclose()


async def test_what_was_put_is_found_by_its_key_alone(cache: Cache):
    cache.put("one", b"\x00 1", 60)
    cache.put("two", b"", 60)

    assert await cache.get("one") == b"\x00 1"
    assert await cache.get("two") == b""
    assert await cache.get("three") is None


async def test_the_last_value_put_under_a_key_counts(cache: Cache):
    cache.put("one", b"first", 60)
    cache.put("one", b"second", 60)

    assert await cache.get("one") == b"second"


async def test_a_value_is_gone_after_its_time(cache: Cache):
    cache.put("short", b"1", 0.05)
    cache.put("long", b"1", 60)

    async def gone() -> bool:
        return await cache.get("short") is None

    await until(gone)

    assert await cache.get("long") == b"1"


async def test_a_value_without_time_is_not_kept(cache: Cache):
    cache.put("one", b"1", 0)

    assert await cache.get("one") is None
    assert cache.problem is None


async def test_the_largest_value_is_kept_and_a_larger_one_is_not(cache: Cache):
    cache.put("largest", bytes(MAX_VALUE_BYTES), 60)
    cache.put("larger", bytes(MAX_VALUE_BYTES + 1), 60)

    async with asyncio.timeout(10):
        while (found := await cache.get("largest")) is None:  # a busy machine may be late
            pass
    assert found == bytes(MAX_VALUE_BYTES)
    assert await cache.get("larger") is None


async def test_many_at_once_get_each_their_own(cache: Cache):
    for number in range(300):
        cache.put(str(number), b"%d" % number, 60)

    async with asyncio.timeout(10):
        found: list[bytes | None] = [None]
        while None in found:  # a busy machine may not tell 300 of them in the time there is
            found = await asyncio.gather(*(cache.get(str(number)) for number in range(300)))
            asked = enumerate(found)
            assert [(n, value) for n, value in asked if value not in (None, b"%d" % n)] == []

    assert found == [b"%d" % number for number in range(300)]


async def test_memory_stays_within_its_bytes_and_what_was_not_asked_for_longest_goes_first():
    cache = MemoryCache(10_000)
    for number in range(7):
        cache.put(str(number), bytes(1000), 60)
    await cache.get("0")

    cache.put("7", bytes(1000), 60)

    assert await cache.get("1") is None
    assert await cache.get("0") == bytes(1000)
    assert cache.bytes <= 10_000


async def test_memory_counts_what_it_keeps_and_drops():
    now = 0.0
    cache = MemoryCache(10_000, clock=lambda: now)
    cache.put("one", bytes(1000), 60)
    cache.put("one", bytes(10), 60)
    replaced = cache.bytes
    now = 61.0

    await cache.get("one")

    assert 10 <= replaced < 1000
    assert cache.bytes == 0


async def test_memory_without_bytes_keeps_nothing():
    cache = MemoryCache(0)

    cache.put("one", b"", 60)

    assert await cache.get("one") is None
    assert cache.bytes == 0


async def test_two_servers_share_what_is_in_redis(redis_server: RedisServer):
    async with redis_server.client() as here, redis_server.client() as there:
        one, other = RedisCache(here), RedisCache(there)
        one.put("key", b"value", 60)
        await one.get("key")  # what was asked before it has been answered before it

        assert await other.get("key") == b"value"


async def test_everything_in_redis_has_the_prefix_and_ends(redis_client: Redis):
    cache = RedisCache(redis_client)
    cache.put("key", b"value", 60)
    await cache.get("key")

    assert await redis_client.keys() == [f"{PREFIX}key".encode()]
    assert 0 < await redis_client.pttl(f"{PREFIX}key") <= 60_000


async def took_s(cache: Cache) -> float:
    began = time.perf_counter()
    assert await cache.get("key") is None
    return time.perf_counter() - began


async def test_redis_that_hangs_is_a_miss_within_50_ms_and_then_at_once(own_redis: RedisServer):
    async with own_redis.client() as client:
        cache = RedisCache(client)
        cache.put("key", b"value", 60)
        await cache.get("key")
        own_redis.hang()

        first = await took_s(cache)
        together = await asyncio.gather(*(took_s(cache) for _ in range(50)))
        own_redis.go_on()

    assert first < PATIENCE_S
    assert max(together) < PATIENCE_S
    assert cache.problem
    assert "Redis is lost" in cache.problem


async def test_redis_that_is_gone_is_a_miss_and_found_again_when_it_is_back(
    own_redis: RedisServer,
):
    async with own_redis.client() as client:
        cache = RedisCache(client)
        await cache.get("key")
        own_redis.stop()
        lost = await took_s(cache)
        cache.put("key", b"lost", 60)
        own_redis.start()

        async def back() -> bool:
            await cache.get("key")
            return cache.problem is None

        await until(back)
        cache.put("key", b"value", 60)

        assert lost < PATIENCE_S
        assert await cache.get("key") == b"value"


async def test_who_hangs_up_while_redis_is_asked_leaves_the_others_their_answers(
    redis_client: Redis,
):
    cache = RedisCache(redis_client)
    cache.put("key", b"value", 60)
    asking = [asyncio.create_task(cache.get("key")) for _ in range(3)]
    await asyncio.sleep(0)

    asking[1].cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)

    assert found[0] == found[2] == b"value"
    assert isinstance(found[1], asyncio.CancelledError)
    assert cache.problem is None
