"""A ledger that is in use is divided by month, and put together again."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from sqlalchemy import URL, text

from galley.db import migrations
from galley.db.engine import make_engine, parse_url
from galley.db.ledger import Ledger
from galley.db.record import COLUMNS, Record
from galley.db.session import Database, Sessions
from tests.records import finished, id_at, new_record, stored_requests

pytestmark = pytest.mark.anyio

AUGUST = datetime(2026, 8, 31, 23, 59, tzinfo=UTC)
FUTURE = datetime(3026, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def in_use(url: URL) -> AsyncGenerator[tuple[Database, Ledger]]:
    """The database as it is, and a ledger on it."""
    engine = make_engine(url)
    database = Database(engine, Sessions(engine), None)
    ledger = Ledger(database)
    yield database, ledger
    await ledger.aclose()
    await engine.dispose()


async def rows(database: Database) -> list[tuple[Any, ...]]:
    return [tuple(getattr(r, name) for name in COLUMNS) for r in await stored_requests(database)]


async def tables_of_rows(database: Database) -> Sequence[str]:
    query = "SELECT tableoid::regclass::text FROM api_requests ORDER BY request_id"
    async with database.engine.connect() as connection:
        return list((await connection.scalars(text(query))).all())


async def indexes(database: Database) -> set[str]:
    query = "SELECT indexdef FROM pg_indexes WHERE tablename = 'api_requests'"
    async with database.engine.connect() as connection:
        return {found.replace(" ONLY", "") for found in await connection.scalars(text(query))}


def records() -> list[Record]:
    moments = (AUGUST, AUGUST + timedelta(minutes=1), FUTURE)
    return [
        finished(new_record(request_id=id_at(at), created_at=at, route="r", arm="a"))
        for at in moments
    ]


async def test_what_is_in_the_ledger_is_divided_by_month_and_put_together_again(
    postgresql_url_at_head: str,
):
    url, made = parse_url(postgresql_url_at_head), records()
    await asyncio.to_thread(command.downgrade, migrations.config(url), "0010")
    async with in_use(url) as (database, ledger):
        await asyncio.gather(*map(ledger.settle, made))
        before, plain = await rows(database), await indexes(database)
        whole = set(await tables_of_rows(database))

    await asyncio.to_thread(migrations.upgrade, url)
    async with in_use(url) as (database, ledger):
        divided = await tables_of_rows(database)
        await ledger.settle(finished(made[0], prompt_tokens=10**6))  # for the second time
        after, by_month = await rows(database), await indexes(database)
    await asyncio.to_thread(command.downgrade, migrations.config(url), "0010")
    async with in_use(url) as (database, _):
        together, back = set(await tables_of_rows(database)), await rows(database)

    assert whole == together == {"api_requests"}
    assert divided == ["api_requests_2026_08", "api_requests_2026_09", "api_requests_rest"]
    assert before == after == back
    assert plain == by_month
    assert len(plain) == 4
