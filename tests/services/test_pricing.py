"""What requests cost: exact, by versions that are never changed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from galley.core.caller import Caller
from galley.core.errors import BadRequestError
from galley.db.session import Database
from galley.db.tables import AuditEvent, Price, new_id
from galley.schemas.money import HIGHEST
from galley.services.pricing import Pricing, cost

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
AMOUNTS = st.integers(0, HIGHEST)
TOKENS = st.integers(0, 10**7)


class Clock:
    """A time that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pricing(database: Database, clock: Clock) -> Pricing:
    return Pricing(database.sessions, clock=clock)


@pytest.fixture
def admin() -> Caller:
    return Caller(user_id=new_id(), key_id=new_id())


def price(**amounts: int) -> Price:
    known = dict.fromkeys(("prompt", "cached", "completion", "unit", "second"), 0)
    return Price(id=new_id(), model="m", valid_from=NOON, **known | amounts)


def amounts(**given: int) -> dict[str, Any]:
    return dict.fromkeys(("prompt", "cached", "completion", "unit", "second"), 0) | given


async def history(database: Database) -> list[Price]:
    async with database.sessions() as session:
        return list(await session.scalars(select(Price).order_by(Price.id)))


def test_tokens_are_priced_by_the_million_and_units_one_by_one() -> None:
    dear = price(prompt=3_000_000, cached=300_000, completion=15_000_000, unit=2_000, second=100)

    assert cost(dear, prompt_tokens=1_000) == 3_000
    assert cost(dear, prompt_tokens=1_000, cached_tokens=400) == 1_920
    assert cost(dear, completion_tokens=1_000) == 15_000
    assert cost(dear, units=3) == 6_000
    assert cost(dear, seconds=2.5) == 250
    assert cost(dear, prompt_tokens=1, completion_tokens=1, units=1, seconds=1) == 2_118


@pytest.mark.parametrize(
    ("tokens", "rounded"), [(0, 0), (1, 0), (4, 0), (5, 1), (14, 1), (15, 2), (25, 3)]
)
def test_what_is_half_of_a_micro_dollar_is_rounded_up_once(tokens: int, rounded: int) -> None:
    assert cost(price(prompt=100_000), prompt_tokens=tokens) == rounded


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, TOKENS, TOKENS, TOKENS, st.integers(0, 10**9))
def test_cost_is_the_exact_sum_rounded_half_up(
    prompt: int, completion: int, unit: int, second: int,
    prompt_tokens: int, cached_tokens: int, completion_tokens: int, milliseconds: int,
) -> None:  # fmt: skip
    cached = prompt // 3
    cached_tokens = min(cached_tokens, prompt_tokens)
    chosen = price(prompt=prompt, cached=cached, completion=completion, unit=unit, second=second)
    exact = (
        Fraction((prompt_tokens - cached_tokens) * prompt, 10**6)
        + Fraction(cached_tokens * cached, 10**6)
        + Fraction(completion_tokens * completion, 10**6)
        + 7 * unit
        + Fraction(milliseconds, 1000) * second
    )

    found = cost(
        chosen,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        completion_tokens=completion_tokens,
        units=7,
        seconds=Fraction(milliseconds, 1000),
    )

    whole, rest = divmod(exact, 1)
    assert found == whole + (rest >= Fraction(1, 2))


@given(AMOUNTS, st.decimals(0, 86_400, places=6))
def test_seconds_are_not_rounded_before_the_cost_is(second: int, seconds: Decimal) -> None:
    found = cost(price(second=second), seconds=seconds)

    assert found == (second * seconds).quantize(Decimal(1), ROUND_HALF_UP)


@given(AMOUNTS, AMOUNTS, TOKENS, TOKENS, TOKENS)
def test_no_request_costs_more_than_its_worst_case(
    prompt: int, completion: int, most_prompt: int, most_answer: int, cached_tokens: int
) -> None:
    chosen = price(prompt=prompt, cached=prompt // 2, completion=completion)
    worst = cost(chosen, prompt_tokens=most_prompt, completion_tokens=most_answer)

    real = cost(
        chosen,
        prompt_tokens=most_prompt,
        cached_tokens=cached_tokens,
        completion_tokens=most_answer // 2,
    )

    assert real <= worst


async def test_a_model_without_a_price_has_none_until_it_is_said_to_be_free(
    pricing: Pricing,
) -> None:
    before = pricing.of("small")

    await pricing.seed_free(["small"])

    free = pricing.of("small")
    assert before is None
    assert free is not None
    assert cost(free, prompt_tokens=10**9, completion_tokens=10**9, units=9, seconds=9) == 0


async def test_a_model_that_has_a_price_is_not_made_free_by_a_restart(
    pricing: Pricing, admin: Caller, database: Database
) -> None:
    await pricing.set(admin, "small", **amounts(prompt=5))

    await pricing.seed_free(["small", "large"])
    await pricing.seed_free(["small", "large"])

    found = [(row.model, row.prompt) for row in await history(database)]
    assert found == [("small", 5), ("large", 0)]


async def test_a_new_price_is_a_new_row_and_counts_at_once(
    pricing: Pricing, admin: Caller, database: Database, clock: Clock
) -> None:
    first = await pricing.set(admin, "small", **amounts(prompt=5))
    clock.now += timedelta(seconds=1)
    second = await pricing.set(admin, "small", **amounts(prompt=7))

    now = pricing.of("small")

    assert now is not None
    assert now.id == second.id
    assert [(row.id, row.prompt) for row in await history(database)] == [
        (first.id, 5),
        (second.id, 7),
    ]


async def test_a_price_for_later_counts_from_that_moment_on(
    pricing: Pricing, admin: Caller, clock: Clock
) -> None:
    await pricing.set(admin, "small", **amounts(prompt=5))
    await pricing.set(admin, "small", **amounts(prompt=7), valid_from=NOON + timedelta(hours=1))

    found: list[int] = []
    for minutes in (0, 59, 60, 61):
        clock.now = NOON + timedelta(minutes=minutes)
        current = pricing.of("small")
        assert current is not None
        found.append(current.prompt)

    assert found == [5, 5, 7, 7]


async def test_what_was_charged_cannot_be_charged_anew(
    pricing: Pricing, admin: Caller, database: Database
) -> None:
    with pytest.raises(BadRequestError) as refused:
        await pricing.set(
            admin, "small", **amounts(prompt=5), valid_from=NOON - timedelta(seconds=1)
        )

    assert (refused.value.code, refused.value.param) == ("invalid_valid_from", "valid_from")
    assert await history(database) == []


async def test_who_set_a_price_is_written_down_with_the_one_before(
    pricing: Pricing, admin: Caller, database: Database
) -> None:
    await pricing.set(admin, "small", **amounts(prompt=5))
    await pricing.set(admin, "small", **amounts(prompt=7))

    async with database.sessions() as session:
        events = list(await session.scalars(select(AuditEvent).order_by(AuditEvent.id)))
    told = [
        (e.user_id, e.action, e.object, e.before and e.before["prompt"], (e.after or {})["prompt"])
        for e in events
    ]
    assert told == [
        (admin.user_id, "price.set", "model:small", None, 5),
        (admin.user_id, "price.set", "model:small", 5, 7),
    ]


@asynccontextmanager
async def keeping_fresh(pricing: Pricing) -> AsyncGenerator[None]:
    task = asyncio.create_task(pricing.keep_fresh(every_s=0.01))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_another_server_learns_of_a_new_price_by_itself(
    pricing: Pricing, admin: Caller, database: Database, clock: Clock
) -> None:
    other = Pricing(database.sessions, clock=clock)
    async with keeping_fresh(other):
        await pricing.set(admin, "small", **amounts(prompt=5))

        async with asyncio.timeout(5):
            while (found := other.of("small")) is None:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)

    assert found.prompt == 5


async def test_prices_are_listed_as_they_were_set_page_by_page(
    pricing: Pricing, admin: Caller
) -> None:
    for prompt in range(5):
        await pricing.set(admin, "small", **amounts(prompt=prompt))
    await pricing.set(admin, "large", **amounts(prompt=9))

    first = await pricing.history(model="small", limit=3)
    rest = await pricing.history(model="small", after=first.rows[-1].id, limit=3)
    everything: Any = await pricing.history(limit=10)

    assert [(row.prompt) for row in first.rows] == [4, 3, 2]
    assert [(row.prompt) for row in rest.rows] == [1, 0]
    assert (first.has_more, rest.has_more) == (True, False)
    assert len(everything.rows) == 6
