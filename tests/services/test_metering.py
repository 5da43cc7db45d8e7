"""One row per request, whatever way it ends."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from galley.core.caller import Caller
from galley.core.errors import (
    CancelledError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
    RateLimitError,
)
from galley.core.metrics import Metrics
from galley.db.ledger import Ledger
from galley.db.session import Database, open_database
from galley.db.tables import ApiRequest
from galley.schemas.delta import Delta, Usage
from galley.services.accounts import Accounts
from galley.services.metering import Arrival, Meter

pytestmark = pytest.mark.anyio

REQUEST_ID = "01a1fd1e-df93-7326-9084-fd00f13dc9db"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[Database]:
    async with open_database(f"sqlite:///{tmp_path}/galley.db") as database:
        yield database


@pytest.fixture
async def caller(database: Database) -> Caller:
    accounts = Accounts(database.sessions)
    key = await accounts.bootstrap(None)
    assert key is not None
    return await accounts.authenticate(key)


@pytest.fixture
async def ledger(database: Database) -> AsyncGenerator[Ledger]:
    ledger = Ledger(database)
    yield ledger
    await ledger.aclose()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def meter(ledger: Ledger, metrics: Metrics) -> Meter:
    return Meter(ledger, metrics, "instance")


async def only_row(database: Database) -> ApiRequest:
    async with database.sessions() as session:
        return (await session.scalars(select(ApiRequest))).one()


async def test_success_is_booked_before_the_answer_may_leave(
    meter: Meter, caller: Caller, database: Database
) -> None:
    async with meter.hold(Arrival(REQUEST_ID, "mine-1"), caller, "chat") as charge:
        charge.add(Delta(text="Hello", tokens=1))
        charge.add(Delta(finish_reason="stop", usage=Usage(7, 3, 2)))
        await charge.settle()

        row = await only_row(database)

    assert (row.state, row.status, row.client_request_id) == ("completed", 200, "mine-1")
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (7, 3, 2)
    assert row.first_token_ms is not None
    assert row.response_time_ms is not None
    assert row.response_time_ms >= row.first_token_ms


@pytest.mark.parametrize(
    ("ending", "state", "status"),
    [
        (RateLimitError("slow down", code="requests"), "refused", 429),
        (OverloadedError("it died", code="engine_unavailable"), "failed", 503),
        (EngineTimeoutError("too long", code="timeout"), "failed", 504),
        (CancelledError("gone", code="client_closed_request"), "cancelled", 499),
        (RuntimeError("a bug"), "failed", 500),
        (asyncio.CancelledError(), "failed", 500),
    ],
)
async def test_a_request_that_breaks_off_is_booked_once_with_what_was_made(
    ending: BaseException,
    state: str,
    status: int,
    meter: Meter,
    caller: Caller,
    ledger: Ledger,
    database: Database,
) -> None:
    async def request() -> None:
        async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
            charge.add(Delta(usage=Usage(prompt_tokens=7)))
            charge.add(Delta(text="Hello", tokens=1))
            charge.add(Delta(text=" you", tokens=1))
            raise ending

    with pytest.raises(type(ending)):
        await request()

    await ledger.aclose()
    row = await only_row(database)
    assert (row.state, row.status) == (state, status)
    assert (row.prompt_tokens, row.completion_tokens) == (7, 2)
    if isinstance(ending, GalleyError):
        assert row.error_code == ending.code


async def test_who_is_sent_away_before_anything_was_made_is_refused(
    meter: Meter, caller: Caller, ledger: Ledger, database: Database
) -> None:
    with pytest.raises(OverloadedError):
        async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat"):
            raise OverloadedError("full", code="queue_full")

    await ledger.aclose()
    assert (await only_row(database)).state == "refused"


async def test_settling_again_changes_nothing(
    meter: Meter, caller: Caller, ledger: Ledger, database: Database
) -> None:
    async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
        await charge.settle()
        await charge.settle(EngineTimeoutError("late"))

    assert (await only_row(database)).state == "completed"


async def test_answers_to_one_prompt_count_it_once(meter: Meter, caller: Caller) -> None:
    async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
        charge.per_prompt = 2
        for index, prompt in ((0, 10), (1, 10), (2, 30), (3, 30)):
            charge.add(Delta(index=index, usage=Usage(prompt, 5)))

        assert charge.usage == Usage(prompt_tokens=40, completion_tokens=20)
        await charge.settle()


async def test_metrics_count_what_the_ledger_books(
    meter: Meter, caller: Caller, metrics: Metrics
) -> None:
    async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
        charge.record.served_model = "m"
        charge.add(Delta(text="x", usage=Usage(7, 3)))
        await charge.settle()

    def value(name: str, **labels: Any) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("galley_requests_total", endpoint="chat", model="m", status="200") == 1
    assert value("galley_tokens_total", model="m", kind="prompt") == 7
    assert value("galley_tokens_total", model="m", kind="completion") == 3
    assert value("galley_time_to_first_token_seconds_count", model="m") == 1
    assert value("galley_requests_in_flight") == 0
