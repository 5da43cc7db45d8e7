import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text
from structlog.testing import capture_logs

from galley.core.errors import InternalError
from galley.db.ledger import OPEN_AFTER_S, Ledger
from galley.db.record import COLUMNS
from galley.db.requests import interrupt_open
from galley.db.session import Database
from galley.db.tables import ApiRequest, new_id
from tests.records import finished, new_record, stored_requests, stored_sums

pytestmark = pytest.mark.anyio


async def test_a_settled_request_is_in_the_database_when_its_future_is_done(
    ledger: Ledger, database: Database
):
    record = new_record(
        client_request_id="mine", model="galley/chat", stream=True, ignored_fields="user,store"
    )
    ledger.open(record)

    await ledger.settle(
        finished(record, cached_tokens=3, units=2, first_token_ms=4.5, error_code="late")
    )

    (row,) = await stored_requests(database)
    written = {name: getattr(row, name) for name in COLUMNS}
    assert written == {name: getattr(record, name) for name in COLUMNS}


async def test_nobody_is_told_of_a_commit_that_has_not_happened(ledger: Ledger, database: Database):
    async with database.sessions.begin() as session:
        await session.connection()  # on SQLite that takes the write lock
        if database.path is None:
            await session.execute(text("LOCK TABLE api_requests"))
        settled = ledger.settle(finished(new_record()))
        await asyncio.sleep(0.1)

        assert not settled.done()
    await settled

    assert len(await stored_requests(database)) == 1


async def test_a_request_is_open_in_the_database_while_it_runs(ledger: Ledger, database: Database):
    running, other = new_record(), new_record()
    ledger.open(running)

    await asyncio.sleep(2 * OPEN_AFTER_S)
    await ledger.settle(finished(other))

    rows = await stored_requests(database)
    assert [row.state for row in rows] == ["open", "completed"]
    assert [total.requests for total in await stored_sums(database)] == [1]


async def test_what_happens_to_a_record_after_it_was_opened_is_not_written_before_it_settles(
    ledger: Ledger, database: Database
):
    record = new_record(model="asked")

    ledger.open(record)
    finished(record, model="changed")
    await ledger.aclose()

    (row,) = await stored_requests(database)
    assert (row.state, row.model, row.prompt_tokens) == ("open", "asked", 0)


async def test_requests_that_settle_in_one_turn_of_the_loop_share_a_commit(
    ledger: Ledger, database: Database
):
    async def count() -> int:
        async with database.sessions() as session:
            return await session.scalar(select(func.count()).select_from(ApiRequest)) or 0

    settled = asyncio.gather(*(ledger.settle(finished(new_record())) for _ in range(300)))
    seen = {await count()}
    while not settled.done():
        seen.add(await count())
    seen.add(await count())

    assert seen <= {0, 300}
    assert 300 in seen


async def test_requests_settled_at_all_sorts_of_moments_are_each_recorded_once(
    ledger: Ledger, database: Database
):
    alice = new_id()

    async def request(n: int) -> None:
        record = new_record(user_id=alice)
        ledger.open(record)
        await asyncio.sleep(n % 7 * OPEN_AFTER_S / 4)
        await ledger.settle(finished(record, prompt_tokens=n))

    await asyncio.gather(*(request(n) for n in range(400)))

    rows = await stored_requests(database)
    sums = await stored_sums(database)
    assert len(rows) == 400
    assert {row.state for row in rows} == {"completed"}
    assert sum(total.requests for total in sums) == 400
    assert sum(total.prompt_tokens for total in sums) == sum(range(400))


@pytest.mark.parametrize("pause", [False, True])
async def test_of_several_settlements_the_first_counts(
    ledger: Ledger, database: Database, pause: bool
):
    record = new_record()
    ledger.open(record)

    first = ledger.settle(finished(record))
    if pause:
        await first
    second = ledger.settle(finished(record, state="cancelled", status=499))
    await asyncio.gather(first, second)

    (row,) = await stored_requests(database)
    (total,) = await stored_sums(database)
    assert (row.state, row.status) == ("completed", 200)
    assert (total.requests, total.successes, total.prompt_tokens) == (1, 1, 5)


@pytest.mark.parametrize("pause", [False, True])
async def test_opening_after_the_settlement_changes_nothing(
    ledger: Ledger, database: Database, pause: bool
):
    record = finished(new_record())
    settled = ledger.settle(record)
    if pause:
        await settled

    record.state = "open"
    ledger.open(record)
    await ledger.aclose()

    (row,) = await stored_requests(database)
    assert row.state == "completed"


async def test_a_request_taken_for_interrupted_may_still_settle(ledger: Ledger, database: Database):
    record, other = new_record(), new_record()
    ledger.open(record)
    await asyncio.sleep(2 * OPEN_AFTER_S)
    await ledger.settle(finished(other))
    async with database.sessions.begin() as session:
        await interrupt_open(session, but=[new_id()])

    await ledger.settle(finished(record))

    assert {row.state for row in await stored_requests(database)} == {"completed"}
    assert sum(total.requests for total in await stored_sums(database)) == 2


async def test_usage_is_summed_up_by_hour_endpoint_and_serving_model(
    ledger: Ledger, database: Database
):
    alice, key, noon = new_id(), new_id(), datetime(2026, 5, 4, 12, 59, 59, tzinfo=UTC)
    ends: Sequence[dict[str, Any]] = [
        {"created_at": noon},
        {"created_at": noon, "units": 4, "response_time_ms": None},
        {"created_at": noon, "state": "refused", "served_model": None, "prompt_tokens": 0},
        {"created_at": noon + timedelta(seconds=1)},
        {"created_at": noon, "endpoint": "embeddings"},
    ]

    await asyncio.gather(
        *(ledger.settle(finished(new_record(user_id=alice, key_id=key), **end)) for end in ends)
    )

    sums = [
        (t.hour.hour, t.endpoint, t.served_model, t.requests, t.successes, t.units, t.prompt_tokens)
        for t in await stored_sums(database)
    ]
    assert sums == [
        (12, "chat/completions", "", 1, 0, 0, 0),
        (12, "chat/completions", "small", 2, 2, 4, 10),
        (12, "embeddings", "small", 1, 1, 0, 5),
        (13, "chat/completions", "small", 1, 1, 0, 5),
    ]
    assert sum(total.response_time_ms for total in await stored_sums(database)) == 4 * 12.5


@pytest.mark.parametrize("model", ["nul\0", "half a pair \ud83d", "new\nline"])
async def test_a_model_name_that_no_database_takes_is_recorded_readably(
    ledger: Ledger, database: Database, model: str
):
    await ledger.settle(finished(new_record(model=model), state="refused", status=404))

    (row,) = await stored_requests(database)
    assert row.model is not None
    assert "\N{REPLACEMENT CHARACTER}" in row.model


async def test_a_row_that_the_database_does_not_take_fails_alone(
    ledger: Ledger, database: Database
):
    good = [finished(new_record()) for _ in range(5)]
    bad = finished(new_record(), prompt_tokens=2**70)

    with capture_logs() as logs:
        answers = await asyncio.gather(
            *(ledger.settle(record) for record in [*good[:2], bad, *good[2:]]),
            return_exceptions=True,
        )

    assert isinstance(answers[2], InternalError)
    assert [answer for n, answer in enumerate(answers) if n != 2] == [None] * 5
    assert len(await stored_requests(database)) == 5
    assert [(line["event"], line["rows"]) for line in logs] == [("ledger_commit_failed", 1)]


async def test_a_caller_that_no_longer_waits_does_not_disturb_the_others(
    ledger: Ledger, database: Database
):
    gone, waiting = (ledger.settle(finished(new_record())) for _ in range(2))

    gone.cancel()
    await waiting

    assert len(await stored_requests(database)) == 2


async def test_closing_writes_what_is_queued_and_takes_no_more(ledger: Ledger, database: Database):
    for _ in range(3):
        ledger.settle(finished(new_record()))

    await ledger.aclose()

    assert len(await stored_requests(database)) == 3
    with pytest.raises(RuntimeError, match="closed"):
        ledger.settle(finished(new_record()))


async def test_a_ledger_tells_of_every_batch_and_how_many_rows_wait(database: Database):
    told: list[tuple[float, bool]] = []
    ledger = Ledger(database, lambda seconds, succeeded: told.append((seconds, succeeded)))

    settled = [ledger.settle(finished(new_record())) for _ in range(3)]
    waiting = ledger.waiting
    await asyncio.gather(*settled)
    await ledger.aclose()

    assert waiting == 3
    assert ledger.waiting == 0
    ((seconds, succeeded),) = told
    assert seconds > 0
    assert succeeded
