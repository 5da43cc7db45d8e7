"""What the tests of this room share: a clock, books, limiters and passages."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from galley.stores.limiter import Limiter
from galley.stores.limiter_memory import MemoryLimiter
from galley.stores.limiter_redis import RedisLimiter
from tests.redis_server import RedisServer
from tests.stores.books import Books, Clock
from tests.stores.library import Store, open_store


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


@pytest.fixture(params=["sqlite", "postgresql"])
def store_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store of passages is to be, of each kind in turn."""
    if request.param == "sqlite":
        return str(tmp_path / "passages.db")
    return request.getfixturevalue("postgresql_url_at_head")


@pytest.fixture
async def store(store_place: str) -> AsyncGenerator[Store]:
    """The same, open."""
    async with open_store(store_place) as passages:
        yield passages
