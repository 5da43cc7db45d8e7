import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, create_engine, inspect, select, text

from galley.core.caller import SCOPES
from galley.core.settings import SettingsError
from galley.db import migrations
from galley.db.engine import make_engine, parse_url
from galley.db.session import Database, open_database
from galley.db.tables import Base, Tier

pytestmark = pytest.mark.anyio

MIGRATE = """
import sys
from galley.db import migrations
from galley.db.engine import parse_url

migrations.upgrade(parse_url(sys.argv[1]))
"""


# Where PostgreSQL keeps documents; they are queried by SQL that SQLite would not know.
DOCUMENTS = {
    "collections", "documents", "document_versions", "passages", "passage_vectors", "passage_words",
}  # fmt: skip


def expected_tables(url: URL) -> set[str]:
    known = {"alembic_version", *Base.metadata.tables}
    return known | DOCUMENTS if url.get_backend_name() == "postgresql" else known


async def tables(url: URL) -> set[str]:
    engine = make_engine(url)
    async with engine.connect() as connection:
        found = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    return {name for name in found if not name.startswith("api_requests_")}


def test_head_is_the_newest_of_the_migrations(sqlite_url: str):
    scripts = ScriptDirectory.from_config(migrations.config(parse_url(sqlite_url)))

    assert scripts.get_heads() == [migrations.HEAD]


async def test_migrating_makes_the_tables_that_the_code_expects(database: Database):
    def differences(connection: Connection) -> Sequence[Any]:
        def ours(name: str | None, kind: str, _: object) -> bool:
            return kind != "table" or name not in {*DOCUMENTS, "api_requests_rest"}

        context = MigrationContext.configure(connection, opts={"include_name": ours})
        return compare_metadata(context, Base.metadata)

    async with database.engine.connect() as connection:
        found = await connection.run_sync(differences)

    assert found == []


async def test_migrating_sqlite_gives_the_same_tables_as_making_them(
    sqlite_url: str, tmp_path: Path
):
    made = create_engine(f"sqlite:///{tmp_path}/made.db")
    Base.metadata.create_all(made)
    made.dispose()

    async with open_database(sqlite_url) as database:
        assert database.path
        migrated = schema(database.path)

    assert migrated == schema(tmp_path / "made.db")


def schema(path: Path) -> dict[str, Any]:
    """Columns without their order and defaults, foreign keys, indexes, and the kind of table."""
    tables = "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND name <> ?"
    parts = (
        'SELECT name, upper(type), "notnull", pk FROM pragma_table_info(?)',
        'SELECT "table", "from", "to" FROM pragma_foreign_key_list(?)',
        'SELECT l."unique", l.partial, i.seqno, i.name FROM pragma_index_list(?) l'
        " JOIN pragma_index_info(l.name) i",
    )
    with closing(sqlite3.connect(path)) as connection:
        return {
            name: (kind, [set(connection.execute(part, [name])) for part in parts])
            for name, kind in connection.execute(tables, ["alembic_version"]).fetchall()
        }


async def test_every_migration_can_be_undone_and_done_again(database_url: str):
    url = parse_url(database_url)
    async with open_database(database_url):
        pass
    expected = expected_tables(url)
    assert await tables(url) == expected

    await asyncio.to_thread(command.downgrade, migrations.config(url), "base")
    assert await tables(url) == {"alembic_version"}

    async with open_database(database_url):
        assert await tables(url) == expected


async def test_a_migration_that_fails_leaves_the_database_as_it_was(database_url: str):
    url = parse_url(database_url)
    if url.database and url.get_backend_name() == "sqlite":
        Path(url.database).parent.mkdir()
    engine = make_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE usage_hourly (in_the_way int)"))
    await engine.dispose()

    with pytest.raises(SettingsError, match="usage_hourly"):
        async with open_database(database_url):
            pass

    assert await tables(url) == {"usage_hourly"}


async def test_servers_that_start_together_on_an_empty_postgresql_all_start(postgresql_url: str):
    servers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", MIGRATE, postgresql_url)
        for _ in range(3)
    ]

    ends = [await server.wait() for server in servers]

    assert ends == [0, 0, 0]
    url = parse_url(postgresql_url)
    assert await tables(url) == expected_tables(url)


async def test_new_scopes_come_to_the_tiers_that_could_do_everything(database_url: str):
    url = parse_url(database_url)
    async with open_database(database_url):
        pass
    await asyncio.to_thread(command.downgrade, migrations.config(url), "0005")
    await execute(url, """UPDATE tiers SET scopes = '["chat", "usage"]' WHERE name = 'free'""")

    async with open_database(database_url) as database, database.sessions() as session:
        scopes = {tier.name: tier.scopes for tier in await session.scalars(select(Tier))}

    assert scopes["free"] == ["chat", "usage"]
    assert set(scopes["premium"]) == set(SCOPES)


async def execute(url: URL, statement: str) -> None:
    engine = make_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def test_a_postgresql_whose_user_may_not_install_pgvector_is_refused_with_the_cure(
    postgresql_url: str,
):
    url = parse_url(postgresql_url)
    user = f"clerk_{url.database}"
    await execute(url, f"CREATE ROLE {user} LOGIN")
    await execute(url, f"GRANT CREATE ON SCHEMA public TO {user}")

    with pytest.raises(SettingsError, match="CREATE EXTENSION vector"):
        async with open_database(url.set(username=user).render_as_string(hide_password=False)):
            pass

    assert await tables(url) == set()
    await execute(url, f"REVOKE CREATE ON SCHEMA public FROM {user}")
    await execute(url, f"DROP ROLE {user}")
