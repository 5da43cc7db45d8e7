import asyncio
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError

from galley.core.settings import SettingsError
from galley.db.keys import create_key
from galley.db.migrations import HEAD
from galley.db.session import Database, is_unavailable, open_database
from galley.db.tables import new_id
from galley.db.users import create_user
from tests.records import count_users

pytestmark = pytest.mark.anyio


async def refusal(url: str) -> str:
    """What the operator is told instead of a database."""
    with pytest.raises(SettingsError) as refused:
        async with open_database(url):
            pass
    return str(refused.value)


def python(code: str, *arguments: str) -> str:
    """Run `code` in an interpreter of its own and return what it prints."""
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return finished.stdout.strip()


OPEN = """
import asyncio, sys, time
from galley.db.session import open_database

async def main():
    async with open_database(sys.argv[1]):
        drivers = {"alembic", "asyncpg", "aiosqlite"} & set(sys.modules)
        print(*sorted(drivers), flush=True)
        time.sleep(float(sys.argv[2]))

asyncio.run(main())
"""


async def test_an_empty_database_is_brought_to_the_newest_schema(database: Database):
    async with database.engine.connect() as connection:
        revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))

    assert revision == HEAD


async def test_what_was_written_is_there_after_reopening(database_url: str):
    async with open_database(database_url) as database, database.sessions.begin() as session:
        await create_user(session, email="a@example.org", name="A")

    async with open_database(database_url) as database, database.sessions() as session:
        assert await count_users(session) == 1


async def test_opening_an_up_to_date_database_loads_neither_alembic_nor_the_other_driver(
    database_url: str,
):
    driver = "aiosqlite" if database_url.startswith("sqlite") else "asyncpg"

    first, second = python(OPEN, database_url, "0"), python(OPEN, database_url, "0")

    assert first == f"{' '.join(sorted(['alembic', driver]))}"
    assert second == driver


async def test_sqlite_is_durable_checks_foreign_keys_and_lets_readers_read(sqlite_url: str):
    async with open_database(sqlite_url) as database, database.engine.connect() as connection:
        found = [
            await connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]

    assert found == ["wal", 2, 1, 5000]


async def test_the_data_directory_and_its_files_are_the_owners_alone(
    sqlite_url: str, tmp_path: Path
):
    async with open_database(sqlite_url):
        directory = tmp_path / "data"
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}
    assert {"galley.db", "galley.db.lock"} <= set(modes)


async def test_a_second_server_on_the_same_sqlite_file_is_refused_with_the_cure(
    sqlite_url: str, tmp_path: Path
):
    (tmp_path / "link").symlink_to(tmp_path / "data")

    async with open_database(sqlite_url):
        told = [await refusal(url) for url in (sqlite_url, sqlite_url.replace("/data/", "/link/"))]

    for message in told:
        assert "Another server is using" in message
        assert "GALLEY_DATA_DIR" in message
        assert "postgresql://" in message
    async with open_database(sqlite_url):
        pass


async def test_the_lock_holds_between_processes_and_falls_with_a_killed_one(sqlite_url: str):
    with subprocess.Popen(  # noqa: ASYNC220 - a line is read from it, nothing else runs here
        [sys.executable, "-c", OPEN, sqlite_url, "60"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        assert server.stdout.readline()
        told = await refusal(sqlite_url)
        server.kill()

    assert "Another server is using" in told
    async with open_database(sqlite_url):
        pass


async def test_two_databases_may_be_opened_at_the_same_time(sqlite_url: str, postgresql_url: str):
    async def count(url: str) -> int:
        async with open_database(url) as database, database.sessions() as session:
            return await count_users(session)

    assert await asyncio.gather(count(sqlite_url), count(postgresql_url)) == [0, 0]


async def test_sqlite_writers_that_read_first_wait_for_each_other(database: Database):
    async def add(n: int) -> None:
        async with database.sessions.begin() as session:
            await count_users(session)
            await asyncio.sleep(0.02)
            await create_user(session, email=f"{n}@example.org", name="N")

    await asyncio.gather(*(add(n) for n in range(5)))

    async with database.sessions() as session:
        assert await count_users(session) == 5


async def test_a_transaction_that_fails_leaves_nothing(database: Database):
    async def add() -> None:
        async with database.sessions.begin() as session:
            await create_user(session, email="a@example.org", name="A")
            await create_key(session, user_id=new_id(), name="of nobody", key="gk_nobody")

    with pytest.raises(IntegrityError):
        await add()

    async with database.sessions() as session:
        assert await count_users(session) == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "is not a URL"),
        ("mysql://me@localhost/galley", "'mysql', which is not supported"),
        ("sqlite://", "has to name a file"),
        ("sqlite:///:memory:", "has to name a file"),
        ("sqlite:///galley.db?mode=ro", "and nothing more"),
        ("sqlite:////proc/galley/galley.db", "cannot be opened"),
        ("postgresql://me:secret@127.0.0.1:1/galley", "cannot be opened"),
    ],
)
async def test_a_database_that_cannot_be_used_is_refused_in_words(url: str, words: str):
    told = await refusal(url)

    assert words in told
    assert "secret" not in told


async def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam, " * 100)

    told = await refusal(f"sqlite:///{tmp_path}/letter.txt")

    assert "file is not a database" in told


async def test_a_database_made_by_a_newer_galley_is_refused(database_url: str):
    async with open_database(database_url) as database, database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    told = await refusal(database_url)

    assert "newer Galley" in told
    assert "9999" in told


def test_postgresql_without_its_driver_says_what_to_install():
    told = python(
        """
import asyncio, sys
sys.modules["asyncpg"] = None  # as on a machine without it
from galley.core.settings import SettingsError
from galley.db.session import open_database

async def main():
    try:
        async with open_database("postgresql://me@localhost/galley"):
            pass
    except SettingsError as error:
        print(error)

asyncio.run(main())
"""
    )

    assert "pip install 'galley[postgres]'" in told


async def test_a_database_that_is_gone_is_told_from_one_that_is_asked_the_wrong_way(
    postgresql_url_at_head: str,
):
    async with open_database(postgresql_url_at_head) as database:
        async with database.engine.connect() as connection:
            with pytest.raises(DBAPIError) as wrong:
                await connection.exec_driver_sql("SELECT $1::int", (1, 2))
        async with database.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            driver.terminate()
            with pytest.raises(DBAPIError) as gone:
                await connection.execute(text("SELECT 1"))

    assert isinstance(wrong.value, InterfaceError)
    assert not is_unavailable(wrong.value)
    assert isinstance(gone.value, InterfaceError)
    assert is_unavailable(gone.value)
