"""One row per request, whatever way it ends."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from galley.core.caller import Caller
from galley.core.errors import (
    BadRequestError,
    CancelledError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
    RateLimitError,
)
from galley.core.limits import Counter, Limits
from galley.core.metrics import Metrics
from galley.db.ledger import Ledger
from galley.db.session import Database, open_database
from galley.db.tables import ApiRequest, Price, new_id
from galley.schemas.delta import Delta, Usage
from galley.services.accounts import Accounts
from galley.services.charge import Arrival
from galley.services.dispatch import Attempt
from galley.services.metering import Meter
from galley.services.pricing import Pricing
from galley.stores.limiter_memory import MemoryLimiter

pytestmark = pytest.mark.anyio

REQUEST_ID = "01a1fd1e-df93-7326-9084-fd00f13dc9db"


@pytest.fixture
async def database(sqlite_url_at_head: str) -> AsyncGenerator[Database]:
    async with open_database(sqlite_url_at_head) as database:
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
async def pricing(database: Database) -> Pricing:
    pricing = Pricing(database.sessions)
    await pricing.seed_free(["small"])
    return pricing


@pytest.fixture
def meter(ledger: Ledger, pricing: Pricing, metrics: Metrics) -> Meter:
    async def nothing(counter: Counter, since: datetime) -> int:
        return 0

    limiter = MemoryLimiter(nothing)
    return Meter(ledger, limiter, pricing, metrics, instance_id=new_id(), longest_s=60)


def limited(caller: Caller, **limits: int) -> Caller:
    """The same caller, with limits."""
    return replace(caller, rules=Limits(**limits).rules(f"user:{caller.user_id}"))


async def only_row(database: Database) -> ApiRequest:
    async with database.sessions() as session:
        return (await session.scalars(select(ApiRequest))).one()


async def test_success_is_booked_before_the_answer_may_leave(
    meter: Meter, caller: Caller, database: Database
) -> None:
    async with meter.hold(Arrival(REQUEST_ID, "mine-1"), caller, "chat") as charge:
        charge.add([Delta(text="Hello", tokens=1)])
        charge.add([Delta(finish_reason="stop", usage=Usage(7, 3, 2))])
        await meter.settle(charge)

        row = await only_row(database)

    assert (row.state, row.status, row.client_request_id) == ("completed", 200, "mine-1")
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (7, 3, 2)
    assert row.first_token_ms is not None
    assert row.response_time_ms is not None
    assert row.response_time_ms >= row.first_token_ms


@pytest.mark.parametrize(
    ("ending", "state", "status"),
    [
        (RateLimitError("slow down", code="requests"), "failed", 429),
        (OverloadedError("it died", code="engine_unavailable"), "failed", 503),
        (EngineTimeoutError("too long", code="timeout"), "failed", 504),
        (CancelledError("gone", code="client_closed_request"), "cancelled", 499),
        (RuntimeError("a bug"), "failed", 500),
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
            charge.add([Delta(usage=Usage(prompt_tokens=7))])
            charge.add([Delta(text="Hello", tokens=1)])
            charge.add([Delta(text=" you", tokens=1)])
            raise ending

    with pytest.raises(type(ending)):
        await request()

    await ledger.aclose()
    row = await only_row(database)
    assert (row.state, row.status) == (state, status)
    assert (row.prompt_tokens, row.completion_tokens) == (7, 2)
    if isinstance(ending, GalleyError):
        assert row.error_code == ending.code


async def test_a_server_that_stops_books_what_it_cuts_off(
    meter: Meter, caller: Caller, ledger: Ledger, database: Database
) -> None:
    async def cut_off() -> None:
        async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
            charge.add([Delta(text="Hello", tokens=1)])
            raise asyncio.CancelledError

    with pytest.raises(OverloadedError, match="stopping"):
        await cut_off()

    await ledger.aclose()
    row = await only_row(database)
    assert (row.state, row.error_code, row.completion_tokens) == ("failed", "server_stopping", 1)


async def test_who_is_sent_away_before_anything_was_made_is_refused(
    meter: Meter, caller: Caller, ledger: Ledger, database: Database
) -> None:
    with pytest.raises(OverloadedError):
        async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat"):
            raise OverloadedError("full", code="queue_full")

    await ledger.aclose()
    assert (await only_row(database)).state == "refused"


async def test_what_was_made_is_billed_even_if_the_rest_is_refused(
    meter: Meter, caller: Caller, pricing: Pricing, ledger: Ledger, database: Database
) -> None:
    await pricing.set(caller, "small", prompt=0, cached=0, completion=1_000_000, unit=0, second=0)

    async def two_prompts() -> None:
        async with meter.hold(Arrival(REQUEST_ID, None), caller, "completions") as charge:
            await meter.admit(charge, "small", completion_tokens=9)
            charge.add([Delta(text="the first of two answers", usage=Usage(7, 5))])
            raise BadRequestError("the second prompt is too long")

    with pytest.raises(BadRequestError):
        await two_prompts()

    await ledger.aclose()
    row = await only_row(database)
    assert (row.state, row.status, row.cost) == ("failed", 400, 5)


async def test_time_that_went_by_before_a_request_is_let_in_is_reserved_too(
    meter: Meter, caller: Caller, pricing: Pricing
) -> None:
    await pricing.set(caller, "small", prompt=0, cached=0, completion=0, unit=0, second=1_000_000)
    slow = Arrival(REQUEST_ID, None, began=time.perf_counter() - 30)
    mine = limited(caller, cost_per_day=80_000_000)  # 60 s are the longest that an answer takes
    await ask(meter, mine)

    with pytest.raises(RateLimitError):
        async with meter.hold(slow, mine, "chat") as charge:
            await meter.admit(charge, "small")


async def test_settling_again_changes_nothing(
    meter: Meter, caller: Caller, ledger: Ledger, database: Database
) -> None:
    async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
        await meter.settle(charge)
        await meter.settle(charge, EngineTimeoutError("late"))

    assert (await only_row(database)).state == "completed"


async def test_answers_to_one_prompt_count_it_once(meter: Meter, caller: Caller) -> None:
    async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
        charge.per_prompt = 2
        for index, prompt in ((0, 10), (1, 10), (2, 30), (3, 30)):
            charge.add([Delta(index=index, usage=Usage(prompt, 5))])

        assert charge.usage == Usage(prompt_tokens=40, completion_tokens=20)
        await meter.settle(charge)


async def test_metrics_count_what_the_ledger_books(
    meter: Meter, caller: Caller, metrics: Metrics
) -> None:
    async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
        charge.record.served_model = "m"
        charge.add([Delta(text="x", usage=Usage(7, 3))])
        await meter.settle(charge)

    def value(name: str, **labels: Any) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("galley_requests_total", endpoint="chat", model="m", status="200") == 1
    assert value("galley_tokens_total", model="m", kind="prompt") == 7
    assert value("galley_tokens_total", model="m", kind="completion") == 3
    assert value("galley_time_to_first_token_seconds_count", model="m") == 1
    assert value("galley_requests_in_flight") == 0


async def test_metrics_count_calls_of_models_what_they_cost_and_limits_in_the_way(
    meter: Meter, caller: Caller, metrics: Metrics, pricing: Pricing, database: Database
) -> None:
    async with database.sessions.begin() as session:
        session.add(Price(model="dear", unit=2_500_000))
    await pricing.load()
    mine = limited(caller, requests_per_minute=1)
    async with meter.hold(Arrival(new_id(), None), mine, "chat") as charge:
        await meter.admit(charge, "dear", texts=1)
        await meter.enter(charge, "dear")
        charge.record.units = 1
        charge.attempts += [
            Attempt("dear", 0, "closed", "upstream_failed", 1.0),
            Attempt("dear", 1, "closed", "ok", 1.0),
        ]
        await meter.settle(charge)
    with pytest.raises(RateLimitError):
        await ask(meter, mine)

    def value(name: str, **labels: Any) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("galley_cost_dollars_total", model="dear") == 2.5
    assert value("galley_attempts_total", model="dear", outcome="ok") == 1
    assert value("galley_attempts_total", model="dear", outcome="upstream_failed") == 1
    assert value("galley_limit_refusals_total", metric="requests", period="minute") == 1


async def ask(meter: Meter, caller: Caller, tokens: int = 0, **most: int) -> dict[str, str]:
    """One request that uses `tokens`; returns how the limits stood when it was let in."""
    async with meter.hold(Arrival(new_id(), None), caller, "chat") as charge:
        await meter.admit(charge, "small", **most)
        charge.add([Delta(text="x", usage=Usage(completion_tokens=tokens))])
        await meter.settle(charge)
        return {name.decode(): value.decode() for name, value in charge.headers}


async def test_requests_over_the_limit_are_refused_and_told_when_to_come_back(
    meter: Meter, caller: Caller
) -> None:
    mine = limited(caller, requests_per_minute=2)
    first, second = await ask(meter, mine), await ask(meter, mine)

    with pytest.raises(RateLimitError, match="2 requests in any 60 seconds") as refused:
        await ask(meter, mine)

    assert [h["x-ratelimit-remaining-requests"] for h in (first, second)] == ["1", "0"]
    assert first["x-ratelimit-limit-requests"] == "2"
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.should_retry
    assert 55 < (refused.value.retry_after or 0) <= 61


async def test_tokens_are_reserved_at_the_worst_and_given_back_at_the_end(
    meter: Meter, caller: Caller
) -> None:
    mine = limited(caller, tokens_per_minute=100)

    for _ in range(5):
        await ask(meter, mine, tokens=10, prompt_tokens=20, completion_tokens=30)

    with pytest.raises(RateLimitError, match="100 tokens"):
        await ask(meter, mine, prompt_tokens=20, completion_tokens=31)


async def test_to_be_checked_takes_nothing(meter: Meter, caller: Caller) -> None:
    mine = limited(caller, requests_per_minute=1, concurrency=1)

    async with meter.hold(Arrival(new_id(), None), mine, "chat") as charge:
        for _ in range(2):
            await meter.check(charge)
        await meter.admit(charge, "small")
        await meter.settle(charge)

    with pytest.raises(RateLimitError, match="1 requests in any 60 seconds"):
        async with meter.hold(Arrival(new_id(), None), mine, "chat") as charge:
            await meter.check(charge)


async def test_what_could_never_fit_is_refused_for_good(meter: Meter, caller: Caller) -> None:
    mine = limited(caller, tokens_per_minute=100)

    with pytest.raises(RateLimitError, match="smaller max_tokens") as refused:
        await ask(meter, mine, completion_tokens=101)

    assert refused.value.retry_after is None
    assert not refused.value.should_retry


async def test_a_refused_request_gives_everything_back(meter: Meter, caller: Caller) -> None:
    mine = limited(caller, requests_per_minute=1, concurrency=1)

    async def sent_away() -> None:
        async with meter.hold(Arrival(new_id(), None), mine, "chat") as charge:
            await meter.admit(charge, "small")
            raise OverloadedError("full", code="queue_full")

    with pytest.raises(OverloadedError):
        await sent_away()

    await ask(meter, mine)


async def test_requests_at_the_same_time_are_limited_until_one_ends(
    meter: Meter, caller: Caller
) -> None:
    mine = limited(caller, concurrency=1)
    async with meter.hold(Arrival(new_id(), None), mine, "chat") as charge:
        await meter.admit(charge, "small")
        with pytest.raises(RateLimitError, match="at a time"):
            await ask(meter, mine)
        await meter.settle(charge)

    await ask(meter, mine)


async def test_a_budget_is_never_exceeded_and_waiting_for_it_is_not_advised(
    meter: Meter, caller: Caller, pricing: Pricing, ledger: Ledger, database: Database
) -> None:
    await pricing.set(caller, "small", prompt=0, cached=0, completion=1_000_000, unit=0, second=0)
    mine = limited(caller, cost_per_day=25)
    for _ in range(2):
        await ask(meter, mine, tokens=10, completion_tokens=15)

    with pytest.raises(RateLimitError, match=r"\$0\.000025 a day") as refused:
        await ask(meter, mine, completion_tokens=6)

    assert refused.value.code == "insufficient_quota"
    assert not refused.value.should_retry
    await ledger.aclose()  # nobody waits for the row of a refusal
    async with database.sessions() as session:
        rows = (await session.scalars(select(ApiRequest))).all()
    assert sorted(row.cost for row in rows) == [0, 10, 10]
    assert all(row.price_id for row in rows if row.cost)


async def test_a_model_without_a_price_is_refused(meter: Meter, caller: Caller) -> None:
    with pytest.raises(OverloadedError, match="galley prices set unheard-of") as refused:
        async with meter.hold(Arrival(new_id(), None), caller, "chat") as charge:
            await meter.admit(charge, "unheard-of")

    assert refused.value.code == "price_unknown"


async def put_off(meter: Meter, caller: Caller, error: BaseException) -> None:
    """A request in the background that was let in, and then failed with `error`."""
    async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
        charge.background = True
        await meter.admit(charge, "small")
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("Later.", code="rate_limit_exceeded", retry_after=1),
        RateLimitError("Tomorrow.", code="insufficient_quota", retry_after=9e4, should_retry=False),
        OverloadedError("Full.", code="queue_full", retry_after=1),
        asyncio.CancelledError(),
    ],
    ids=type,
)
async def test_a_request_in_the_background_comes_again_and_is_booked_once(
    error: BaseException, meter: Meter, caller: Caller, database: Database, ledger: Ledger
) -> None:
    caller = limited(caller, concurrency=1)
    for _ in range(3):  # what was reserved is given back
        with pytest.raises(type(error)):
            await put_off(meter, caller, error)

    async with meter.hold(Arrival(REQUEST_ID, None), caller, "chat") as charge:
        charge.background = True
        await meter.admit(charge, "small")
        charge.add([Delta(text="Hello", tokens=1)])
        await meter.settle(charge)
    await ledger.aclose()

    row = await only_row(database)
    assert (row.state, row.status, row.completion_tokens) == ("completed", 200, 1)


@pytest.mark.parametrize(("background", "seconds"), [(True, 110), (False, 3_710)])
async def test_the_wait_of_work_in_the_background_is_neither_time_nor_money(
    background: bool,
    seconds: int,
    meter: Meter,
    pricing: Pricing,
    caller: Caller,
    database: Database,
) -> None:
    await pricing.set(caller, "small", prompt=0, cached=0, completion=0, unit=0, second=1_000_000)
    arrival = Arrival(new_id(), None)

    async with meter.hold(arrival, caller, "chat") as charge:
        charge.background = background
        arrival.began -= 100
        await meter.admit(charge, "small")
        arrival.began -= 3_600  # it waits for an hour
        charge.begin()
        arrival.began -= 10
        charge.add([Delta(text="Hello", tokens=1)])
        await meter.settle(charge)

    row = await only_row(database)
    assert row.response_time_ms == pytest.approx(seconds * 1_000, abs=5_000)
    assert row.first_token_ms == pytest.approx(seconds * 1_000, abs=5_000)
    assert row.cost == pytest.approx(seconds * 1_000_000, abs=5_000_000)


@pytest.mark.parametrize(
    "error",
    [
        BadRequestError("No."),
        RateLimitError("Never.", code="insufficient_quota", should_retry=False),
        OverloadedError("No price.", code="price_unknown"),
    ],
    ids=type,
)
async def test_what_waiting_does_not_help_is_booked_as_refused_in_the_background_too(
    error: GalleyError, meter: Meter, caller: Caller, database: Database, ledger: Ledger
) -> None:
    with pytest.raises(type(error)):
        await put_off(meter, caller, error)
    await ledger.aclose()

    assert (await only_row(database)).state == "refused"
