"""A server sees to it that there are months for what comes, and says what is amiss."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from galley.db.ledger import Ledger
from galley.db.session import Database, open_database
from galley.services.months import Months
from tests.records import finished, id_at, new_record

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
async def database(postgresql_url_at_head: str) -> AsyncGenerator[Database]:
    async with open_database(postgresql_url_at_head) as database:
        yield database


async def test_what_was_made_and_what_has_no_month_is_in_the_log(database: Database):
    ledger = Ledger(database)
    spring = datetime(2027, 4, 1, tzinfo=UTC)
    await ledger.settle(finished(new_record(request_id=id_at(spring), created_at=spring)))
    await ledger.aclose()

    with capture_logs() as logs:
        await Months(database.sessions, clock=lambda: NOW).look()

    assert [(line["event"], line.get("months"), line.get("count")) for line in logs] == [
        ("months_made", ["2026-11", "2026-12", "2027-01"], None),
        ("requests_in_no_month", None, 1),
    ]


async def test_where_nothing_is_to_be_done_nothing_is_said(database: Database):
    months = Months(database.sessions, clock=lambda: NOW)
    await months.look()

    with capture_logs() as logs:
        await months.look()

    assert logs == []


async def test_months_that_cannot_be_made_now_are_made_the_next_time(database: Database):
    months = Months(database.sessions, clock=lambda: NOW)
    async with database.engine.connect() as reader:
        await reader.execute(text("SELECT count(*) FROM api_requests"))

        with capture_logs() as failed:
            await months.look()
    with capture_logs() as made:
        await months.look()

    assert [line["event"] for line in failed] == ["months_not_made"]
    assert [line["event"] for line in made] == ["months_made"]
