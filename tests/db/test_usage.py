import asyncio
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galley.db.ledger import Ledger
from galley.db.record import Record, daily_sums, hourly_sums
from galley.db.session import Database
from galley.db.tables import new_id, utc_now
from galley.db.usage import Span, Sums, total, usage_by, usage_by_month
from tests.records import finished, new_record, stored_days, stored_requests, stored_sums

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def settle(ledger: Ledger, *records: Record) -> None:
    await asyncio.gather(*(ledger.settle(record) for record in records))


async def test_usage_is_added_up_over_days_and_models(ledger: Ledger, database: Database):
    alice, bob = new_id(), new_id()
    ends = [
        new_record(user_id=alice, created_at=utc_now() - timedelta(days=40)),
        new_record(user_id=alice),
        new_record(user_id=alice, endpoint="classify"),
        new_record(user_id=bob),
    ]
    await settle(ledger, *(finished(record, units=2, cost=30) for record in ends))
    await ledger.settle(finished(new_record(user_id=alice), state="failed", status=502))
    ledger.open(new_record(user_id=alice))
    await ledger.aclose()

    async with database.sessions() as session:
        used, _ = await usage_by(session, Span(alice))

    assert {name: sums.requests for name, sums in used.items()} == {
        "chat/completions": 3,
        "classify": 1,
    }
    assert total(*used.values()) == Sums(
        requests=4,
        successes=3,
        prompt_tokens=20,
        completion_tokens=28,
        units=6,
        cost=90,
        response_time_ms=50.0,
    )


async def test_who_never_asked_has_used_nothing(database: Database):
    async with database.sessions() as session:
        used, groups = await usage_by(session, Span(new_id()), "day")

    assert (used, groups) == ({}, [])
    assert total(*used.values()) == Sums()


async def test_both_ends_of_a_span_belong_to_it(ledger: Ledger, database: Database):
    alice = new_id()
    days = [NOON - timedelta(days=n) for n in range(5)]
    await settle(ledger, *(finished(new_record(user_id=alice, created_at=at)) for at in days))

    async def count(first: date | None, last: date | None) -> int:
        async with database.sessions() as session:
            endpoints, _ = await usage_by(session, Span(alice, first, last))
        return total(*endpoints.values()).requests

    assert await count(None, None) == 5
    assert await count(date(2026, 11, 19), date(2026, 11, 20)) == 2
    assert await count(date(2026, 11, 19), None) == 3
    assert await count(None, date(2026, 11, 17)) == 1
    assert await count(date(2026, 11, 22), None) == 0


async def test_days_come_latest_first_and_models_most_expensive_first(
    ledger: Ledger, database: Database
):
    alice = new_id()
    ends = [
        finished(new_record(user_id=alice, created_at=NOON), served_model="small", cost=1),
        finished(new_record(user_id=alice, created_at=NOON), served_model="large", cost=9),
        finished(new_record(user_id=alice, created_at=NOON - timedelta(days=1)), served_model=None),
    ]
    await settle(ledger, *ends)

    async with database.sessions() as session:
        _, days = await usage_by(session, Span(alice), "day")
        _, models = await usage_by(session, Span(alice), "model")

    assert [(g.group, g.sums.cost) for g in days] == [("2026-11-21", 10), ("2026-11-20", 0)]
    assert [(g.group, g.sums.cost) for g in models] == [("large", 9), ("small", 1), ("", 0)]


async def test_months_are_those_of_utcs_calendar(ledger: Ledger, database: Database):
    alice = new_id()
    moments = (
        datetime(2026, 10, 31, 23, 59, 59, 999_999, UTC),
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2026, 11, 30, 23, 59, tzinfo=UTC),
        datetime(2025, 11, 30, tzinfo=UTC),
    )
    await settle(ledger, *(finished(new_record(user_id=alice, created_at=at)) for at in moments))

    async with database.sessions() as session:
        months = await usage_by_month(session, Span(alice))

    assert [(month, sums.requests) for month, sums in months] == [
        (date(2026, 11, 1), 2),
        (date(2026, 10, 1), 1),
        (date(2025, 11, 1), 1),
    ]


REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "state": st.sampled_from(["completed", "failed", "refused", "cancelled"]),
            "created_at": st.integers(-3000, 3000).map(lambda n: NOON + timedelta(minutes=n)),
            "endpoint": st.sampled_from(["chat", "classify"]),
            "key_id": st.sampled_from([new_id(), new_id()]),
            "served_model": st.sampled_from([None, "small", "large"]),
            "prompt_tokens": st.integers(0, 2**40),
            "completion_tokens": st.integers(0, 2**40),
            "units": st.integers(0, 2**20),
            "cost": st.integers(0, 2**40),
            "response_time_ms": st.none() | st.integers(0, 10**6).map(float),
        }
    ),
    max_size=40,
)


@given(REQUESTS)
def test_days_are_the_sums_of_hours_and_hours_of_requests(requests: list[dict[str, object]]):
    rows = [finished(new_record(user_id="alice"), **request).row() for request in requests]

    hours = hourly_sums(rows)
    days = daily_sums(hours)

    due: Counter[tuple[object, ...]] = Counter()
    for request in requests:
        at = request["created_at"]
        assert isinstance(at, datetime)
        due[(at.date(), request["endpoint"], request["served_model"] or "")] += 1
    assert {row[1:4]: row[4] for row in days} == due
    for n in range(1, 8):
        assert sum(row[-n] for row in days) == sum(row[-n] for row in hours)
    assert sum(row[-2] for row in days) == sum(
        cost for request in requests if isinstance(cost := request["cost"], int)
    )


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS)
async def test_whatever_is_settled_both_sums_are_those_of_the_rows(
    ledger: Ledger, database: Database, requests: list[dict[str, object]]
):
    alice = new_id()

    await settle(ledger, *(finished(new_record(user_id=alice), **request) for request in requests))

    rows = [row for row in await stored_requests(database) if row.user_id == alice]
    for sums in (await stored_sums(database), await stored_days(database)):
        own = [row for row in sums if row.user_id == alice]
        assert sum(row.requests for row in own) == len(rows) == len(requests)
        for name in ("prompt_tokens", "completion_tokens", "units", "cost"):
            assert sum(getattr(row, name) for row in own) == sum(getattr(r, name) for r in rows)
        assert sum(row.successes for row in own) == sum(r.state == "completed" for r in rows)
        assert sum(row.response_time_ms for row in own) == sum(
            r.response_time_ms or 0 for r in rows
        )
