"""What the tests of this room share: a clock, books, limiters and passages."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from galley.db.session import open_database
from galley.stores import passages_postgres, passages_sqlite
from galley.stores.limiter import Limiter
from galley.stores.limiter_memory import MemoryLimiter
from galley.stores.limiter_redis import RedisLimiter
from tests.redis_server import RedisServer
from tests.stores.books import Books, Clock
from tests.stores.library import Store


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
def postgresql_or_none(request: pytest.FixtureRequest) -> str | None:
    """Nothing at first; then a database on PostgreSQL."""
    return (
        request.getfixturevalue("postgresql_url_at_head") if request.param == "postgresql" else None
    )


@pytest.fixture
async def store(postgresql_or_none: str | None, tmp_path: Path) -> AsyncGenerator[Store]:
    """A store of passages of each kind in turn."""
    if postgresql_or_none is None:
        path = tmp_path / "passages.db"
        async with passages_sqlite.open_passages(path, memory_bytes=10**8) as passages:
            yield passages
        return
    async with (
        open_database(postgresql_or_none) as database,
        passages_postgres.open_passages(database) as passages,
    ):
        yield passages
