"""What the tests of this room share: a clock, books, and limiters of both kinds."""

from collections.abc import AsyncGenerator

import pytest

from galley.stores.limiter import Limiter
from galley.stores.limiter_memory import MemoryLimiter
from galley.stores.limiter_redis import RedisLimiter
from tests.redis_server import RedisServer
from tests.stores.books import Books, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture(params=["memory", "redis"])
async def limiter(
    request: pytest.FixtureRequest, clock: Clock, books: Books
) -> AsyncGenerator[Limiter]:
    """Each kind in turn."""
    if request.param == "memory":
        yield MemoryLimiter(books.spent, clock=clock)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with server.client() as client:
        limiter = RedisLimiter(
            client, books.spent, books.outcomes, instance_id="server-1", clock=clock
        )
        yield limiter
        assert limiter.problem is None
        await limiter.aclose()
