from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest

from galley.core.caching import CacheControl
from galley.core.caller import Caller
from galley.core.errors import EngineTimeoutError
from galley.engines.base import Embedded
from galley.schemas.embeddings import EmbeddingRequest
from galley.services.vector_cache import VectorCache
from galley.stores.cache import Cache
from galley.stores.cache_memory import MemoryCache
from galley.stores.cache_redis import RedisCache
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio

ANN, BOB = Caller("ann"), Caller("bob")
WANTED = CacheControl(max_age_s=60)
MADE = Embedded(np.array([[0.6, 0.8], [1.0, 0.0]], np.float32), 7)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[Cache]:
    """Each kind in turn."""
    if request.param == "memory":
        yield MemoryCache(1_000_000)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with server.client() as client:
        cache = RedisCache(client)
        yield cache
        await cache.aclose()


@pytest.fixture
def now() -> list[float]:
    """The time, in its one place."""
    return [1_000_000.0]


@pytest.fixture
def cache(store: Cache, now: list[float]) -> VectorCache:
    return VectorCache(store, ttl_s=600, clock=lambda: now[0])


def texts(**fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest.model_validate({"model": "m", "input": ["one", "two"]} | fields)


async def test_the_same_texts_get_the_same_vectors_again(cache: VectorCache):
    cache.keep(ANN, "m", texts(), WANTED, MADE)

    found = await cache.find(ANN, "m", texts(encoding_format="base64", user="x"), WANTED)

    assert found is not None
    assert np.array_equal(found.vectors, MADE.vectors)
    assert (found.vectors.dtype, found.tokens) == (np.float32, 7)


async def test_nobody_finds_the_vectors_of_another(cache: VectorCache):
    cache.keep(ANN, "m", texts(), WANTED, MADE)

    assert await cache.find(BOB, "m", texts(), WANTED) is None


@pytest.mark.parametrize(
    "other", [texts(input=["one"]), texts(dimensions=1), texts(truncate=True)], ids=str
)
async def test_another_request_has_other_vectors(cache: VectorCache, other: EmbeddingRequest):
    cache.keep(ANN, "m", texts(), WANTED, MADE)

    assert await cache.find(ANN, "m", other, WANTED) is None
    assert await cache.find(ANN, "other", texts(), WANTED) is None


@pytest.mark.parametrize("control", [CacheControl(), CacheControl(max_age_s=9, no_store=True)])
async def test_only_what_the_client_asks_to_keep_is_kept(cache: VectorCache, control: CacheControl):
    cache.keep(ANN, "m", texts(), control, MADE)

    assert await cache.find(ANN, "m", texts(), WANTED) is None


async def test_what_is_too_old_or_not_wanted_from_memory_is_made_anew(
    cache: VectorCache, now: list[float]
):
    cache.keep(ANN, "m", texts(), WANTED, MADE)
    now[0] += 60

    assert await cache.find(ANN, "m", texts(), WANTED) is not None
    assert await cache.find(ANN, "m", texts(), CacheControl(max_age_s=59)) is None
    assert await cache.find(ANN, "m", texts(), CacheControl(max_age_s=60, no_cache=True)) is None
    assert await cache.find(ANN, "m", texts(), CacheControl()) is None


async def test_only_if_cached_refuses_what_is_not(cache: VectorCache):
    with pytest.raises(EngineTimeoutError) as refused:
        await cache.find(ANN, "m", texts(), CacheControl(max_age_s=60, only_if_cached=True))

    assert refused.value.code == "not_cached"
