"""Receipts are written with the rows that they belong to."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from galley.db.ledger import OPEN_AFTER_S, Ledger
from galley.db.receipts import delete_receipts, find_receipt
from galley.db.session import Database
from galley.db.tables import Receipt
from tests.records import finished, id_at, new_record, stored_requests

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


async def stored(database: Database) -> Mapping[str, bytes]:
    async with database.sessions() as session:
        return {row.request_id: row.detail for row in await session.scalars(select(Receipt))}


@pytest.mark.parametrize("count", [1, 90])
async def test_a_receipt_is_there_when_its_row_is(
    count: int, ledger: Ledger, database: Database
) -> None:
    records = [finished(new_record(), receipt=b'{"n":%d}' % n) for n in range(count)]

    await asyncio.gather(*map(ledger.settle, records))

    assert await stored(database) == {r.request_id: r.receipt for r in records}
    assert len(await stored_requests(database)) == count


async def test_a_row_without_one_is_a_row_all_the_same(ledger: Ledger, database: Database) -> None:
    told, silent = finished(new_record(), receipt=b"{}"), finished(new_record())

    await asyncio.gather(ledger.settle(told), ledger.settle(silent))

    assert await stored(database) == {told.request_id: b"{}"}
    assert len(await stored_requests(database)) == 2


async def test_a_refusal_has_its_receipt_too(ledger: Ledger, database: Database) -> None:
    refused = finished(new_record(), state="refused", status=429, receipt=b'{"limits":[]}')

    ledger.close(refused)
    await ledger.aclose()

    assert await stored(database) == {refused.request_id: b'{"limits":[]}'}


async def test_a_request_that_is_open_has_none_yet(ledger: Ledger, database: Database) -> None:
    record = new_record()
    ledger.open(record)
    await asyncio.sleep(2 * OPEN_AFTER_S)

    before = await stored(database)
    await ledger.settle(finished(record, receipt=b"{}"))

    assert before == {}
    assert await stored(database) == {record.request_id: b"{}"}


async def test_of_two_settlements_the_first_ones_receipt_counts_and_the_commit_is_not_spoiled(
    ledger: Ledger, database: Database
) -> None:
    record, other = finished(new_record(), receipt=b'"first"'), finished(new_record())
    await ledger.settle(record)

    again = finished(record, receipt=b'"second"', status=500)
    await asyncio.gather(ledger.settle(again), ledger.settle(other))

    assert await stored(database) == {record.request_id: b'"first"'}
    assert {row.status for row in await stored_requests(database)} == {200}


async def test_a_receipt_that_is_there_already_does_not_spoil_a_commit(
    ledger: Ledger, database: Database
) -> None:
    record = finished(new_record(), receipt=b'"new"')
    async with database.sessions.begin() as session:
        session.add(Receipt(request_id=record.request_id, detail=b'"old"'))

    await ledger.settle(record)

    assert await stored(database) == {record.request_id: b'"old"'}
    assert [row.state for row in await stored_requests(database)] == ["completed"]


async def test_the_oldest_go_first_and_no_more_than_asked_for(
    ledger: Ledger, database: Database
) -> None:
    moments = [NOW - timedelta(days=n) for n in (9, 8, 7, 1)]
    records = [finished(new_record(request_id=id_at(at)), receipt=b"{}") for at in moments]
    await asyncio.gather(*map(ledger.settle, records))

    async with database.sessions.begin() as session:
        gone = await delete_receipts(session, before=NOW - timedelta(days=2), limit=2)

    assert gone == 2
    assert list(await stored(database)) == [record.request_id for record in records[2:]]
    async with database.sessions() as session:
        assert await find_receipt(session, records[0].request_id) is None
        assert await find_receipt(session, records[3].request_id) == b"{}"
