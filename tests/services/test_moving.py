"""What `galley migrate` does; tests/cli/test_migrate.py asks the whole of it."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from galley.db.ledger import Ledger
from galley.db.session import open_database, visit_database
from galley.services.moving import move
from tests.records import finished, id_at, new_record

pytestmark = pytest.mark.anyio


def in_silence(_: str, __: int, ___: int) -> None:
    """Tell nobody how far it is."""


async def test_requests_arrive_in_the_months_they_came_in(
    sqlite_url_at_head: str, postgresql_url: str, tmp_path: Path
) -> None:
    moments = [datetime(2025, 2, 3, tzinfo=UTC), datetime(2026, 8, 31, 23, 59, tzinfo=UTC)]
    async with open_database(sqlite_url_at_head) as database:
        ledger = Ledger(database)
        records = [new_record(request_id=id_at(at), created_at=at) for at in moments]
        await asyncio.gather(*(ledger.settle(finished(record)) for record in records))
        await ledger.aclose()

    await move(sqlite_url_at_head, postgresql_url, tmp_path / "passages.db", in_silence)

    query = text("SELECT tableoid::regclass::text FROM api_requests ORDER BY request_id")
    async with visit_database(postgresql_url) as sessions, sessions() as session:
        found = (await session.scalars(query)).all()
    assert found == ["api_requests_2025_02", "api_requests_2026_08"]
