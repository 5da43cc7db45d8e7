"""The audit is clean over what the ledger wrote, and names whatever was changed since."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from galley.core.caller import Caller
from galley.db.ledger import Ledger
from galley.db.record import Record
from galley.db.session import Database
from galley.db.tables import ApiRequest, Price, UsageDaily, UsageHourly, new_id
from galley.services.books import Audit, Books, DisagreementError
from galley.services.pricing import Pricing, cost_of
from galley.services.retention import RetentionService
from tests.records import finished, id_at, new_record

pytestmark = pytest.mark.anyio

START = datetime(2026, 9, 1, tzinfo=UTC)
USERS = [new_id() for _ in range(3)]
KEY = new_id()


@pytest.fixture
async def ledger(database: Database) -> AsyncGenerator[Ledger]:
    ledger = Ledger(database)
    yield ledger
    await ledger.aclose()


@pytest.fixture
async def price(database: Database) -> Price:
    pricing = Pricing(database.sessions, clock=lambda: START)
    return await pricing.set(
        Caller(user_id=new_id()), "small",
        prompt=150_000, cached=75_000, completion=600_000, unit=1_000, second=20,
    )  # fmt: skip


def came(at: datetime, price: Price | None, **fields: Any) -> Record:
    """A request that came and went at that moment, at that price."""
    known: dict[str, Any] = {"user_id": USERS[0], "request_id": id_at(at), "created_at": at}
    record = finished(
        new_record(key_id=KEY, **known), prompt_tokens=1_000, cached_tokens=300, units=2
    )
    for name, value in fields.items():
        setattr(record, name, value)
    if price is not None:
        record.price_id, record.cost = price.id, cost_of(price, record)
    return record


@pytest.fixture
async def ten_weeks(ledger: Ledger, price: Price) -> list[Record]:
    """Requests of three users, four a day, over three calendar months."""
    moments = [START + timedelta(hours=6 * n, minutes=17 * n % 60) for n in range(4 * 70)]
    records = [
        came(at, price, user_id=USERS[n % 3], completion_tokens=n, response_time_ms=0.1 * n)
        for n, at in enumerate(moments)
    ]
    records += [
        came(START + timedelta(days=3), None, state="refused", status=429),
        came(START + timedelta(days=3), price, state="cancelled", status=499),
        came(START + timedelta(days=3), None, served_model=None, state="failed", status=502),
    ]
    await asyncio.gather(*(ledger.settle(record) for record in records))
    return records


async def audit(database: Database) -> Audit:
    return await Books(database.sessions).audit()


async def disagreement(database: Database) -> str:
    with pytest.raises(DisagreementError) as found:
        await audit(database)
    return str(found.value)


async def change(database: Database, statement: Any) -> None:
    async with database.sessions.begin() as session:
        await session.execute(statement)


async def test_an_empty_ledger_is_clean(database: Database) -> None:
    assert await audit(database) == Audit()


async def test_what_the_ledger_wrote_is_clean(
    database: Database, ledger: Ledger, ten_weeks: list[Record]
) -> None:
    ledger.open(new_record())
    seen: list[tuple[int, int]] = []

    found = await Books(database.sessions).audit(lambda done, of: seen.append((done, of)))

    assert found.requests == len(ten_weeks)
    assert found.hours > found.days > 0
    assert found.invoices == 3 * 3
    assert found.whole_from is None
    assert seen[-1] == (len(ten_weeks), len(ten_weeks))


async def test_requests_that_come_in_another_order_than_their_ids_are_clean(
    database: Database, ledger: Ledger, price: Price
) -> None:
    full_hour = START + timedelta(hours=1)
    late = came(full_hour - timedelta(milliseconds=1), price)
    late.request_id = id_at(full_hour + timedelta(seconds=2))
    records = [came(full_hour, price), late, came(full_hour + timedelta(hours=5), price)]
    await asyncio.gather(*(ledger.settle(record) for record in records))

    assert (await audit(database)).hours == 3


@pytest.mark.parametrize(
    ("column", "value"),
    [("cost", 1), ("completion_tokens", 10**6), ("units", 0), ("cached_tokens", 0)],
)
async def test_a_request_that_does_not_cost_its_price_is_named(
    database: Database, ten_weeks: list[Record], column: str, value: int
) -> None:
    wrong = ten_weeks[100].request_id
    await change(
        database,
        update(ApiRequest).where(ApiRequest.request_id == wrong).values({column: value}),
    )

    told = await disagreement(database)

    assert told.startswith(f"api_requests {wrong}: cost is ")


async def test_a_cost_without_a_price_and_a_price_that_is_not_there_are_named(
    database: Database, ten_weeks: list[Record]
) -> None:
    second, first = ten_weeks[101].request_id, ten_weeks[100].request_id
    row = update(ApiRequest)
    await change(database, row.where(ApiRequest.request_id == second).values(price_id=None, cost=5))
    unpriced = await disagreement(database)
    await change(database, row.where(ApiRequest.request_id == first).values(price_id=new_id()))

    assert unpriced == f"api_requests {second}: cost is 5, and by its price 0"
    assert (await disagreement(database)).startswith(f"api_requests {first}: there is no price ")


async def test_a_request_charged_as_another_model_is_named(
    database: Database, ten_weeks: list[Record]
) -> None:
    wrong = ten_weeks[100].request_id
    await change(
        database,
        update(ApiRequest).where(ApiRequest.request_id == wrong).values(served_model="large"),
    )

    assert await disagreement(database) == (
        f"api_requests {wrong}: answered by large, and charged as small"
    )


async def test_a_request_that_is_gone_is_missed_in_its_hour(
    database: Database, ten_weeks: list[Record]
) -> None:
    gone = ten_weeks[100]
    await change(database, delete(ApiRequest).where(ApiRequest.request_id == gone.request_id))

    told = await disagreement(database)

    hour = gone.created_at.replace(minute=0)
    assert told.startswith(f"usage_hourly {hour} user {gone.user_id} key {gone.key_id} ")
    assert told.endswith(": there is nothing that it could be the sum of")


@pytest.mark.parametrize(
    ("table", "period"), [(UsageHourly, UsageHourly.hour), (UsageDaily, UsageDaily.day)]
)
@pytest.mark.parametrize(
    "column", ["requests", "successes", "prompt_tokens", "units", "cost", "response_time_ms"]
)
async def test_a_sum_that_was_changed_is_named_with_what_it_must_be(
    database: Database, ten_weeks: list[Record], table: Any, period: Any, column: str
) -> None:
    at = ten_weeks[100].created_at.replace(minute=0)
    at = at if table is UsageHourly else at.date()
    wrong = update(table).where(period == at, table.user_id == ten_weeks[100].user_id)
    await change(database, wrong.values({column: getattr(table, column) + 1}))

    told = await disagreement(database)

    assert told.startswith(f"{table.__tablename__} {at} user {ten_weeks[100].user_id}")
    assert f": {column} is " in told


@pytest.mark.parametrize("table", [UsageHourly, UsageDaily])
async def test_a_sum_that_is_gone_is_missed(
    database: Database, ten_weeks: list[Record], table: Any
) -> None:
    await change(database, delete(table).where(table.user_id == USERS[1]))

    told = await disagreement(database)

    assert told.startswith(table.__tablename__)
    assert told.endswith(": the row is missing")


async def test_the_first_of_several_is_named(database: Database, ten_weeks: list[Record]) -> None:
    for n in (200, 7, 90):
        wrong = ApiRequest.request_id == ten_weeks[n].request_id
        await change(database, update(ApiRequest).where(wrong).values(cost=1))

    assert ten_weeks[7].request_id in await disagreement(database)


async def test_a_request_whose_id_is_of_another_time_is_named(
    database: Database, ledger: Ledger, price: Price
) -> None:
    strange = came(START, price)
    strange.request_id = id_at(START + timedelta(days=1))
    await ledger.settle(strange)

    assert (await disagreement(database)).startswith(f"api_requests {strange.request_id}")


async def test_hours_of_which_requests_were_deleted_for_age_are_not_missed(
    database: Database, ten_weeks: list[Record]
) -> None:
    now = START + timedelta(days=70, minutes=30)
    retention = RetentionService(database.sessions, 30, clock=lambda: now)
    gone = await retention.delete_old()

    found = await audit(database)

    assert gone == sum(r.created_at < START + timedelta(days=40) for r in ten_weeks)
    assert found.requests == len(ten_weeks) - gone
    assert found.whole_from == START + timedelta(days=40)
    assert found.invoices == 3  # November's alone is whole: October's first days are gone


async def test_a_request_missing_from_what_is_kept_is_named_all_the_same(
    database: Database, ten_weeks: list[Record]
) -> None:
    now = START + timedelta(days=70)
    await RetentionService(database.sessions, 30, clock=lambda: now).delete_old()
    kept = [r for r in ten_weeks if r.created_at >= START + timedelta(days=40)]
    await change(database, delete(ApiRequest).where(ApiRequest.request_id == kept[0].request_id))

    assert kept[0].user_id in await disagreement(database)


async def test_what_is_written_during_the_audit_does_not_disturb_it(
    database: Database, ledger: Ledger, ten_weeks: list[Record], price: Price
) -> None:
    async def go_on() -> None:
        for n in range(50):
            await ledger.settle(came(START + timedelta(days=80, minutes=n), price))

    found, _ = await asyncio.gather(audit(database), go_on())

    assert len(ten_weeks) <= found.requests <= len(ten_weeks) + 50


async def test_a_sum_of_nothing_is_named(database: Database, ten_weeks: list[Record]) -> None:
    amounts = {
        "requests": 1, "successes": 1, "prompt_tokens": 0, "completion_tokens": 0, "units": 0,
        "cost": 0, "response_time_ms": 0.0,
    }  # fmt: skip
    key = {"user_id": new_id(), "key_id": new_id(), "endpoint": "chat", "served_model": ""}
    await change(
        database, insert(UsageHourly).values(hour=START + timedelta(days=300), **key, **amounts)
    )

    told = await disagreement(database)

    assert f"user {key['user_id']}" in told
    assert "nothing that it could be the sum of" in told
