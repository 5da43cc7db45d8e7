"""What is prepaid never comes back: the limits that last for ever, in memory and in Redis."""

import asyncio
import math
from datetime import UTC, datetime

import pytest

from galley.stores.limiter import Limiter
from tests.stores.books import Books, Clock, demand

pytestmark = pytest.mark.anyio

YEAR_S = 365 * 86_400.0
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


async def test_credit_begins_with_all_that_the_ledger_says_was_ever_spent(
    limiter: Limiter, books: Books
) -> None:
    credit = demand("cost", "ever", 1000, 300)
    books.used[credit.counter] = 450

    first = await limiter.reserve("a", [credit])
    second = await limiter.reserve("b", [credit])

    assert first.refused is None
    assert first.states[0].remaining == 250
    assert second.refused == credit
    assert books.asked == [(credit.counter, BEGINNING)]


async def test_waiting_does_not_bring_credit_back(
    limiter: Limiter, books: Books, clock: Clock
) -> None:
    credit = demand("cost", "ever", 1000, 600)
    await limiter.reserve("a", [credit])
    await limiter.settle("a", [credit], {"cost": 600})
    books.used[credit.counter] = 600

    refused = await limiter.reserve("b", [credit])
    clock.now += YEAR_S
    later = await limiter.reserve("c", [credit])

    assert (refused.retry_after_s, refused.states[0].reset_s) == (None, math.inf)
    assert later.refused == credit


async def test_what_was_reserved_of_credit_and_not_spent_comes_back(limiter: Limiter) -> None:
    credit = demand("cost", "ever", 1000, 900)
    await limiter.reserve("a", [credit])

    await limiter.settle("a", [credit], {"cost": 100})
    verdict = await limiter.reserve("b", [credit])

    assert verdict.refused is None
    assert verdict.states[0].remaining == 0


async def test_more_credit_lets_the_next_request_in(limiter: Limiter) -> None:
    spent = demand("cost", "ever", 1000, 1000)
    await limiter.reserve("a", [spent])
    await limiter.settle("a", [spent], {"cost": 1000})

    poor = await limiter.reserve("b", [demand("cost", "ever", 1000, 1)])
    topped_up = await limiter.reserve("c", [demand("cost", "ever", 1500, 500)])

    assert poor.refused is not None
    assert topped_up.refused is None


async def test_of_64_at_the_same_time_as_many_are_let_in_as_the_credit_pays_for(
    limiter: Limiter, books: Books
) -> None:
    credit = demand("cost", "ever", 10_000, 700)
    books.used[credit.counter] = 200

    verdicts = await asyncio.gather(*(limiter.reserve(f"{n}", [credit]) for n in range(64)))

    assert sum(verdict.refused is None for verdict in verdicts) == 14


async def test_credit_is_named_before_a_limit_that_comes_back(limiter: Limiter) -> None:
    a_minute, credit = demand("requests", "minute", 1), demand("cost", "ever", 5, 3)
    await limiter.reserve("a", [a_minute, credit])

    refused = await limiter.reserve("b", [a_minute, credit])

    assert (refused.refused, refused.retry_after_s) == (credit, None)


async def test_asking_how_credit_stands_takes_none_of_it(limiter: Limiter) -> None:
    asking = [demand("cost", "ever", 1000, 0)]

    verdicts = [await limiter.reserve(f"{n}", asking) for n in range(2)]

    assert [(v.states[0].remaining, v.states[0].reset_s) for v in verdicts] == [(1000, 0.0)] * 2
