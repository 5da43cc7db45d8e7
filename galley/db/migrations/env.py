"""Alembic runs this file for every command; the URL is in its configuration."""

import asyncio

from alembic import context
from sqlalchemy import Connection, func, select

from galley.db.advisory_locks import MIGRATING  # those that start together do so in turn
from galley.db.engine import make_engine, parse_url
from galley.db.tables import Base


async def _migrate() -> None:
    url = parse_url(context.config.get_main_option("sqlalchemy.url") or "")
    engine = make_engine(url, migrating=True).execution_options(writing=True)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


def _run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(MIGRATING)))
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite alters most things by rebuilding the table
    )
    with context.begin_transaction():
        context.run_migrations()


asyncio.run(_migrate())
