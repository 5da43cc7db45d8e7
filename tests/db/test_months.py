"""The ledger by month, which PostgreSQL alone knows."""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from galley.core.limits import Counter
from galley.db.ledger import OPEN_AFTER_S, Ledger
from galley.db.months import drop_month, find_old_month, look_ahead
from galley.db.requests import Wanted, find_request, recent_requests
from galley.db.session import Database, open_database
from galley.db.spent import spent
from galley.db.tables import new_id
from galley.db.walks import Stretch, count_requests
from tests.records import finished, id_at, new_record, stored_requests, stored_sums

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
REST = "api_requests_rest"
PARTITION = re.compile(r" on api_requests_(\d{4}_\d{2}|rest)\b")


@pytest.fixture
async def database(postgresql_url_at_head: str) -> AsyncGenerator[Database]:
    async with open_database(postgresql_url_at_head) as database:
        yield database


async def look(database: Database, now: datetime = NOW) -> tuple[list[date], int]:
    """Make the months; which were made, and how many requests are in none."""
    async with database.sessions.begin() as session:
        made = await look_ahead(session, now=now)
    return list(made.months), made.homeless


async def settle(ledger: Ledger, *moments: datetime, **fields: Any) -> list[str]:
    """Record a request for each of the moments; returns their ids."""
    records = [
        finished(new_record(request_id=id_at(at), created_at=at, **fields)) for at in moments
    ]
    await asyncio.gather(*(ledger.settle(record) for record in records))
    return [record.request_id for record in records]


async def where(database: Database) -> Mapping[str, str]:
    """In which partition each request is, by id."""
    async with database.engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT request_id::text, tableoid::regclass::text FROM api_requests")
        )
        return {row[0]: row[1] for row in rows}


async def test_this_month_and_the_next_two_are_made_once(database: Database):
    first = await look(database)
    again = await look(database)
    later = await look(database, datetime(2026, 12, 31, 23, 59, tzinfo=UTC))

    assert first == ([date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1)], 0)
    assert again == ([], 0)
    assert later == ([date(2027, 2, 1)], 0)


async def test_servers_that_look_at_the_same_moment_make_each_month_once(database: Database):
    found = await asyncio.gather(*(look(database) for _ in range(4)))

    assert sorted(len(months) for months, _ in found) == [0, 0, 0, 3]


async def test_a_request_is_in_the_month_it_came_in_to_the_millisecond(
    ledger: Ledger, database: Database
):
    await look(database)
    december = datetime(2026, 12, 1, tzinfo=UTC)

    ids = await settle(ledger, december - timedelta(milliseconds=1), december)

    found = await where(database)
    assert [found[request_id] for request_id in ids] == [
        "api_requests_2026_11",
        "api_requests_2026_12",
    ]


async def test_a_clock_that_is_months_ahead_loses_nothing_and_its_requests_move_when_time_comes(
    ledger: Ledger, database: Database
):
    await look(database)
    spring = datetime(2027, 3, 5, tzinfo=UTC)

    (early,) = await settle(ledger, spring)
    _, homeless = await look(database)
    before = await where(database)
    made, left = await look(database, spring)

    assert (before[early], homeless) == (REST, 1)
    assert (date(2027, 3, 1) in made, left) == (True, 0)
    assert (await where(database))[early] == "api_requests_2027_03"
    assert len(await stored_sums(database)) == 1


async def test_requests_from_before_the_months_were_made_move_to_theirs(
    ledger: Ledger, database: Database
):
    moments = [datetime(2025, 2, 28, tzinfo=UTC), datetime(2026, 8, 1, tzinfo=UTC), NOW]
    ids = await settle(ledger, *moments)

    made, homeless = await look(database)

    assert made[:2] == [date(2025, 2, 1), date(2026, 8, 1)]
    assert homeless == 0
    found = await where(database)
    assert [found[request_id] for request_id in ids] == [
        f"api_requests_{at:%Y_%m}" for at in moments
    ]


async def test_a_request_that_was_opened_before_its_month_was_made_is_settled_in_it_once(
    ledger: Ledger, database: Database
):
    record = new_record(request_id=id_at(NOW), created_at=NOW)
    ledger.open(record)
    await asyncio.sleep(2 * OPEN_AFTER_S)
    await settle(ledger, NOW)  # now it is on disk
    await look(database)

    await ledger.settle(finished(record))

    rows = await stored_requests(database)
    assert [row.state for row in rows] == ["completed", "completed"]
    assert set((await where(database)).values()) == {"api_requests_2026_11"}


async def test_requests_are_settled_while_months_are_made(ledger: Ledger, database: Database):
    async def make() -> None:
        for n in range(12):
            await look(database, NOW + timedelta(days=30 * n))

    making = asyncio.create_task(make())
    while not making.done():
        await settle(ledger, *(NOW + timedelta(days=30 * n) for n in range(14)))
    await making

    count = len(await where(database))
    assert count == sum(total.requests for total in await stored_sums(database)) > 0


async def test_somebody_who_reads_for_long_does_not_hold_up_the_others(
    ledger: Ledger, database: Database
):
    async with database.engine.connect() as reader:
        await reader.execute(text("SELECT count(*) FROM api_requests"))

        with pytest.raises(DBAPIError, match="lock timeout"):
            await look(database)

    assert (await look(database))[1] == 0


async def test_a_month_is_dropped_once_all_of_it_is_old(ledger: Ledger, database: Database):
    october = datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)
    ids = await settle(ledger, october - timedelta(days=20), october, NOW)
    await look(database)

    async with database.sessions.begin() as session:
        too_early = await find_old_month(session, before=datetime(2026, 11, 1, tzinfo=UTC))
        found = await find_old_month(session, before=datetime(2026, 11, 1, 1, tzinfo=UTC))
        assert found is not None
        gone = await drop_month(session, found)
        left = await find_old_month(session, before=datetime(2026, 11, 1, 1, tzinfo=UTC))

    assert (too_early, found, gone, left) == (None, date(2026, 10, 1), 2, None)
    assert list(await where(database)) == ids[2:]


async def test_a_month_with_an_open_request_stays(ledger: Ledger, database: Database):
    old = datetime(2026, 9, 9, tzinfo=UTC)
    ledger.open(new_record(request_id=id_at(old), created_at=old))
    await asyncio.sleep(2 * OPEN_AFTER_S)
    await settle(ledger, old)
    await look(database)

    async with database.sessions.begin() as session:
        gone = await drop_month(session, date(2026, 9, 1))

    assert gone is None
    assert len(await where(database)) == 2


class Plans:
    """Notes what is asked of the requests, and tells which partitions that reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: list[tuple[str, Any]] = []
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, _: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "api_requests" in statement and not statement.startswith("EXPLAIN"):
            self._asked.append((statement, parameters))

    async def partitions(self) -> list[set[str]]:
        """For each statement, the months (or `rest`) that it looks into."""
        asked, self._asked = self._asked, []
        return [await self._read_by(*query) for query in asked]

    async def _read_by(self, statement: str, parameters: Any) -> set[str]:
        async with self._database.engine.connect() as connection:
            plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            return set(PARTITION.findall(" ".join(plan.scalars())))


async def test_a_query_reads_the_months_it_asks_for_and_no_others(
    ledger: Ledger, database: Database
):
    alice = new_id()
    months = [datetime(2026, month, 10, tzinfo=UTC) for month in range(1, 12)]
    ids = await settle(ledger, *months, user_id=alice)
    await look(database)
    plans = Plans(database)
    since = datetime(2026, 11, 2, tzinfo=UTC)

    async with database.sessions() as session:
        await find_request(session, user_id=alice, request_id=ids[4])
        await spent(session, Counter(f"user:{alice}", "requests", "day"), since)
        await recent_requests(session, user_id=alice, wanted=Wanted(), after=ids[1])
    await count_requests(
        database.sessions, Stretch(alice, datetime(2026, 6, 1, tzinfo=UTC), months[7])
    )

    found: Sequence[set[str]] = await plans.partitions()
    assert found == [
        {"2026_05"},
        {"2026_11", "2026_12", "2027_01", "rest"},  # from then on, with no end
        {"2026_01", "2026_02", "rest"},
        {"2026_06", "2026_07", "2026_08"},
    ]
