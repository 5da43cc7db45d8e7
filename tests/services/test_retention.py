"""Requests are kept for so many days, what they came to for ever."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, event, select, text
from structlog.testing import capture_logs

from galley.db.batches import add_batch, find_batch
from galley.db.feedback import find_feedback, put_feedback
from galley.db.ledger import OPEN_AFTER_S, Ledger
from galley.db.months import look_ahead
from galley.db.receipts import find_receipt
from galley.db.requests import interrupt_open
from galley.db.responses import put_response
from galley.db.retention import whole_from
from galley.db.session import Database, open_database
from galley.db.tables import StoredResponse, new_id
from galley.db.users import create_user
from galley.db.work_tables import Batch
from galley.services.retention import RESPONSES_AT_ONCE, RetentionService
from tests.records import (
    THIS_SERVER,
    finished,
    id_at,
    new_record,
    stored_days,
    stored_requests,
    stored_sums,
)

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


@pytest.fixture
async def ledger(database: Database) -> AsyncGenerator[Ledger]:
    ledger = Ledger(database)
    yield ledger
    await ledger.aclose()


def retention(database: Database, days: int) -> RetentionService:
    return RetentionService(database.sessions, days, clock=lambda: NOW)


async def settle(ledger: Ledger, *moments: datetime) -> list[str]:
    """Record a request for each of the moments; returns their ids."""
    records = [finished(new_record(request_id=id_at(at), created_at=at)) for at in moments]
    await asyncio.gather(*(ledger.settle(record) for record in records))
    return [record.request_id for record in records]


async def remaining(database: Database) -> list[str]:
    return [row.request_id for row in await stored_requests(database)]


async def test_requests_older_than_that_are_deleted_by_whole_hours(
    ledger: Ledger, database: Database
) -> None:
    bound = datetime(2026, 11, 14, 12, tzinfo=UTC)
    moments = [bound - timedelta(days=9), bound - timedelta(milliseconds=1), bound, NOW]
    ids = await settle(ledger, *moments)

    gone = await retention(database, 7).delete_old()

    assert gone == 2
    assert await remaining(database) == ids[2:]
    async with database.sessions() as session:
        assert await whole_from(session) == bound


async def test_what_requests_came_to_stays(ledger: Ledger, database: Database) -> None:
    await settle(ledger, NOW - timedelta(days=9), NOW)

    await retention(database, 7).delete_old()

    assert sum(row.requests for row in await stored_sums(database)) == 2
    assert sum(row.requests for row in await stored_days(database)) == 2


async def test_0_days_keeps_them_all(ledger: Ledger, database: Database) -> None:
    ids = await settle(ledger, NOW - timedelta(days=9_000), NOW)

    assert await retention(database, 0).delete_old() == 0
    assert await remaining(database) == ids


async def test_where_nothing_is_old_nothing_is_said_to_be_missing(
    ledger: Ledger, database: Database
) -> None:
    await settle(ledger, NOW)

    await retention(database, 7).delete_old()

    async with database.sessions() as session:
        assert await whole_from(session) is None


async def test_open_requests_stay_and_interrupted_ones_go(
    ledger: Ledger, database: Database
) -> None:
    old = NOW - timedelta(days=9)
    ledger.open(new_record(request_id=id_at(old), created_at=old))
    ledger.open(new_record(request_id=id_at(old), created_at=old, instance_id=new_id()))
    await asyncio.sleep(2 * OPEN_AFTER_S)
    await ledger.aclose()
    async with database.sessions.begin() as session:
        await interrupt_open(session, but=[THIS_SERVER])

    await retention(database, 7).delete_old()

    assert [row.state for row in await stored_requests(database)] == ["open"]


async def test_keeping_more_days_does_not_bring_back_what_is_gone(
    ledger: Ledger, database: Database
) -> None:
    await settle(ledger, NOW - timedelta(days=20))
    await retention(database, 7).delete_old()
    await settle(ledger, NOW - timedelta(days=40))

    await retention(database, 30).delete_old()

    async with database.sessions() as session:
        assert await whole_from(session) == datetime(2026, 11, 14, 12, tzinfo=UTC)


async def test_receipts_have_a_time_of_their_own(ledger: Ledger, database: Database) -> None:
    moments = [NOW - timedelta(days=9), NOW - timedelta(days=8), NOW]
    records = [finished(new_record(request_id=id_at(at)), receipt=b"{}") for at in moments]
    await asyncio.gather(*map(ledger.settle, records))
    short = RetentionService(database.sessions, 90, receipt_days=7, clock=lambda: NOW)

    gone = await short.delete_old_receipts()

    assert gone == 2
    assert len(await remaining(database)) == 3
    async with database.sessions() as session:
        found = [await find_receipt(session, record.request_id) for record in records]
    assert found == [None, None, b"{}"]


async def test_0_days_keeps_receipts_as_long_as_their_requests(
    ledger: Ledger, database: Database
) -> None:
    at = NOW - timedelta(days=9)
    record = finished(new_record(request_id=id_at(at), created_at=at), receipt=b"{}")
    await ledger.settle(record)
    async with database.sessions.begin() as session:
        await put_feedback(
            session, request_id=record.request_id, score=1.0, comment="Good.", now=NOW
        )
    kept = await retention(database, 90).delete_old_receipts()

    await retention(database, 7).delete_old()

    assert kept == 0
    async with database.sessions() as session:
        assert await find_receipt(session, record.request_id) is None
        assert await find_feedback(session, record.request_id) is None


async def test_no_transaction_holds_up_the_ledger(ledger: Ledger, database: Database) -> None:
    old = NOW - timedelta(days=9)
    await settle(ledger, *(old + timedelta(seconds=n) for n in range(3_000)))
    began: list[float] = []
    took: list[float] = []
    engine = database.engine.sync_engine

    def begin(_: Connection) -> None:
        began.append(time.perf_counter())

    def commit(_: Connection) -> None:
        took.append(time.perf_counter() - began[-1])

    event.listen(engine, "begin", begin)
    event.listen(engine, "commit", commit)

    gone = await retention(database, 7).delete_old()

    assert gone == 3_000
    assert len(took) > 3
    assert sorted(took)[len(took) // 2] < 0.05


async def test_it_is_done_again_and_again(ledger: Ledger, database: Database) -> None:
    await settle(ledger, NOW - timedelta(days=9))
    task = asyncio.create_task(retention(database, 7).keep())
    async with asyncio.timeout(5):
        while await remaining(database):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    still_at_it = not task.done()

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert still_at_it


async def test_responses_older_than_that_are_deleted_whatever_becomes_of_requests(
    database: Database,
) -> None:
    async with database.sessions.begin() as session:
        user = await create_user(session, email="a@example.org", name="A")
        moments = [NOW - timedelta(days=9)] * RESPONSES_AT_ONCE + [NOW - timedelta(days=8), NOW]
        for at in moments:
            row = StoredResponse(id=id_at(at), user_id=user.id, body=b"{}", items=b"[]")
            await put_response(session, row)
    service = RetentionService(database.sessions, 0, response_days=7, clock=lambda: NOW)

    gone = await service.delete_old_responses()

    assert gone == RESPONSES_AT_ONCE + 1
    assert await service.delete_old_responses() == 0
    assert await retention(database, 7).delete_old_responses() == 0
    async with database.sessions() as session:
        assert len((await session.scalars(select(StoredResponse.id))).all()) == 1


async def test_batches_that_have_ended_go_when_they_are_old(database: Database) -> None:
    async with database.sessions.begin() as session:
        user = await create_user(session, email="ada@example.org", name="Ada")
    old, fresh = NOW - timedelta(days=31), NOW - timedelta(days=29)
    kinds = [("completed", old), ("in_progress", old), ("failed", fresh)]
    ids = [id_at(at) for _, at in kinds]
    async with database.sessions.begin() as session:
        for batch_id, (status, at) in zip(ids, kinds, strict=True):
            batch = Batch(
                id=batch_id, user_id=user.id, endpoint="/v1/embeddings", input_file_id=new_id(),
                status=status, created_at=at, expires_at=at,
            )  # fmt: skip
            await add_batch(session, batch)

    gone = await RetentionService(
        database.sessions, 0, job_days=30, clock=lambda: NOW
    ).delete_old_batches()

    async with database.sessions() as session:
        left = [await find_batch(session, user_id=user.id, batch_id=found) for found in ids]
    assert gone == 1
    assert [batch is not None for batch in left] == [False, True, True]


async def test_months_that_are_old_as_a_whole_are_dropped_and_the_rest_by_the_hour(
    ledger: Ledger, database: Database
) -> None:
    moments = [datetime(2026, 8, 3, tzinfo=UTC), datetime(2026, 10, 31, 23, tzinfo=UTC)]
    moments += [NOW - timedelta(days=8), NOW]
    records = [
        finished(new_record(request_id=id_at(at), created_at=at), receipt=b"{}") for at in moments
    ]
    await asyncio.gather(*map(ledger.settle, records))
    async with database.sessions.begin() as session:
        await put_feedback(
            session, request_id=records[0].request_id, score=1.0, comment=None, now=NOW
        )
        if database.path is None:
            await look_ahead(session, now=NOW)

    gone = await retention(database, 7).delete_old()

    assert gone == 3
    assert await remaining(database) == [records[3].request_id]
    async with database.sessions() as session:
        receipts = [await find_receipt(session, record.request_id) for record in records]
        assert receipts == [None, None, None, b"{}"]
        assert await find_feedback(session, records[0].request_id) is None
        assert await whole_from(session) == datetime(2026, 11, 14, 12, tzinfo=UTC)


async def test_a_month_that_somebody_reads_is_dropped_the_next_time(
    postgresql_url_at_head: str,
) -> None:
    async with open_database(postgresql_url_at_head) as database:
        ledger = Ledger(database)
        await settle(ledger, datetime(2026, 8, 3, tzinfo=UTC))
        await ledger.aclose()
        async with database.sessions.begin() as session:
            await look_ahead(session, now=NOW)

        async with database.engine.connect() as reader:
            await reader.execute(text("SELECT count(*) FROM api_requests"))
            with capture_logs() as logs:
                gone = await retention(database, 7).delete_old()
        before = await months(database)
        await retention(database, 7).delete_old()

        assert gone == 1  # one by one, then
        assert [line["event"] for line in logs] == ["month_not_dropped", "requests_deleted"]
        assert before - await months(database) == {"api_requests_2026_08"}


async def months(database: Database) -> set[str]:
    parts = "SELECT inhrelid::regclass::text FROM pg_inherits"
    query = text(f"{parts} WHERE inhparent = 'api_requests'::regclass")
    async with database.sessions() as session:
        return set(await session.scalars(query))
