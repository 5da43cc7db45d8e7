import asyncio

import pytest

from galley.core.errors import BadRequestError
from galley.db.ledger import OPEN_AFTER_S, Ledger
from galley.db.requests import (
    SEARCHED,
    Wanted,
    find_request,
    interrupt_open,
    recent_requests,
)
from galley.db.session import Database, open_database
from galley.db.tables import new_id
from tests.records import DEAD_SERVER, THIS_SERVER, finished, new_record, stored_requests

pytestmark = pytest.mark.anyio


async def settle_some(ledger: Ledger, user_id: str, count: int) -> list[str]:
    """Record requests of `user_id`; return their ids, oldest first."""
    records = [finished(new_record(user_id=user_id)) for _ in range(count)]
    await asyncio.gather(*(ledger.settle(record) for record in records))
    return [record.request_id for record in records]


async def test_a_request_is_found_by_its_owner_alone(ledger: Ledger, database: Database):
    alice, bob = new_id(), new_id()
    (mine,) = await settle_some(ledger, alice, 1)

    async with database.sessions() as session:
        found = await find_request(session, user_id=alice, request_id=mine)
        shouted = await find_request(session, user_id=alice, request_id=mine.upper())
        strangers = await find_request(session, user_id=bob, request_id=mine)
        nobodys = await find_request(session, user_id=alice, request_id=new_id())
        garbage = await find_request(session, user_id=alice, request_id="'; DROP TABLE users --")

    assert found is not None
    assert found.request_id == mine
    assert shouted is found
    assert (strangers, nobodys, garbage) == (None, None, None)


async def test_recent_requests_come_latest_first_and_page_by_page(
    ledger: Ledger, database: Database
):
    alice, bob = new_id(), new_id()
    ids = await settle_some(ledger, alice, 5)
    await settle_some(ledger, bob, 5)

    async with database.sessions() as session:
        pages: list[list[str]] = []
        after, more = None, True
        while more:
            page = await recent_requests(session, user_id=alice, after=after, limit=2)
            pages.append([row.request_id for row in page.rows])
            after, more = pages[-1][-1], page.has_more

    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


async def test_requests_are_told_apart_by_state_model_endpoint_and_key(
    ledger: Ledger, database: Database
):
    alice, laptop = new_id(), new_id()
    ends = [
        finished(new_record(user_id=alice)),
        finished(new_record(user_id=alice), state="failed", status=502),
        finished(new_record(user_id=alice), served_model="large"),
        finished(new_record(user_id=alice, endpoint="classify")),
        finished(new_record(user_id=alice, key_id=laptop)),
    ]
    await asyncio.gather(*(ledger.settle(record) for record in ends))

    async with database.sessions() as session:
        pages = [
            await recent_requests(session, user_id=alice, wanted=wanted)
            for wanted in (
                Wanted(),
                Wanted(state="failed"),
                Wanted(model="large"),
                Wanted(endpoint="classify"),
                Wanted(key_id=laptop.upper()),
                Wanted(key_id="no id"),
                Wanted(state="failed", model="large"),
            )
        ]

    found = [[row.request_id for row in page.rows] for page in pages]
    ids = [record.request_id for record in ends]
    assert found == [ids[::-1], [ids[1]], [ids[2]], [ids[3]], [ids[4]], [], []]


async def test_no_page_looks_through_more_than_so_many_requests(ledger: Ledger, database: Database):
    alice = new_id()
    failed = finished(new_record(user_id=alice), state="failed", status=502)
    await ledger.settle(failed)
    ids = await settle_some(ledger, alice, SEARCHED)
    wanted = Wanted(state="failed")

    async with database.sessions() as session:
        first = await recent_requests(session, user_id=alice, wanted=wanted)
        rest = await recent_requests(session, user_id=alice, wanted=wanted, after=first.after)
        all_of_them = await recent_requests(session, user_id=alice, after=first.after)

    assert (list(first.rows), first.has_more, first.after) == ([], True, ids[0])
    assert ([row.request_id for row in rest.rows], rest.has_more) == ([failed.request_id], False)
    assert [row.request_id for row in all_of_them.rows] == [failed.request_id]


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(state="failed")])
async def test_a_cursor_that_is_no_request_id_is_refused(wanted: Wanted, database: Database):
    async with database.sessions() as session:
        with pytest.raises(BadRequestError) as refused:
            await recent_requests(session, user_id=new_id(), wanted=wanted, after="yesterday")

    assert refused.value.param == "after"


async def test_what_other_servers_left_open_is_marked_interrupted(
    ledger: Ledger, database: Database
):
    ledger.open(new_record(instance_id=DEAD_SERVER, prompt_tokens=1))
    ledger.open(new_record(instance_id=THIS_SERVER, prompt_tokens=2))
    await asyncio.sleep(2 * OPEN_AFTER_S)
    await ledger.settle(finished(new_record(instance_id=DEAD_SERVER), prompt_tokens=3))

    async with database.sessions.begin() as session:
        marked = await interrupt_open(session, but=[THIS_SERVER])

    assert marked == 1
    states = [(row.prompt_tokens, row.state) for row in await stored_requests(database)]
    assert states == [(1, "interrupted"), (2, "open"), (3, "completed")]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM api_requests WHERE user_id = ? ORDER BY request_id DESC", "user_id"),
        ("UPDATE api_requests SET state = '' WHERE state = 'open' AND instance_id <> ?", "open"),
        ("SELECT sum(requests) FROM usage_hourly WHERE user_id = ? GROUP BY endpoint", "PRIMARY"),
    ],
)
async def test_no_query_of_the_road_reads_a_whole_table(
    sqlite_url_at_head: str, query: str, index: str
):
    async with (
        open_database(sqlite_url_at_head) as database,
        database.engine.connect() as connection,
    ):
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", ("someone",))
        steps = [str(detail) for *_, detail in plan]

    assert any(index in step for step in steps)
