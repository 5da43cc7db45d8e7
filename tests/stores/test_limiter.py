"""What every limiter promises, in memory and in Redis alike."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from galley.core.limits import Counter, Metric, Period
from galley.stores.limiter import Demand, Limiter, Verdict
from tests.stores.books import MIDNIGHT, NOON, Books, Clock, demand

pytestmark = pytest.mark.anyio

FIVE_A_MINUTE = [demand("images", "minute", 5)]
TODAY = datetime(2026, 8, 1, tzinfo=UTC)

Reserve = Callable[..., Coroutine[Any, Any, Verdict]]


@pytest.fixture
def reserve(limiter: Limiter) -> Reserve:
    """Reserve for a request of its own each time, or for the one that is named."""
    count = 0

    async def reserve(*demands: Demand, name: str = "") -> Verdict:
        nonlocal count
        count += 1
        return await limiter.reserve(name or f"request-{count}", demands)

    return reserve


async def fill(reserve: Reserve, *demands: Demand, times: int) -> None:
    for _ in range(times):
        assert (await reserve(*demands)).refused is None


@pytest.mark.parametrize("after_s", [0.0, 13.0, 59.0, 59.999, 59.999999])
async def test_the_sixth_of_five_a_minute_is_refused_until_the_first_is_a_minute_old(
    reserve: Reserve, clock: Clock, after_s: float
):
    await fill(reserve, *FIVE_A_MINUTE, times=5)
    clock.now += after_s

    refused = await reserve(*FIVE_A_MINUTE)

    assert refused.refused == FIVE_A_MINUTE[0]
    assert refused.retry_after_s == pytest.approx(60.0 - after_s, abs=1e-6)
    assert refused.states[0].remaining == 0


async def test_a_request_is_let_in_at_the_moment_it_was_told(reserve: Reserve, clock: Clock):
    clock.now += 0.123457
    await fill(reserve, *FIVE_A_MINUTE, times=5)
    clock.now += 13.7
    refused = await reserve(*FIVE_A_MINUTE)
    assert refused.retry_after_s

    clock.now += refused.retry_after_s
    admitted = await reserve(*FIVE_A_MINUTE)

    assert admitted.refused is None


async def test_refused_attempts_do_not_make_the_wait_longer(reserve: Reserve, clock: Clock):
    await fill(reserve, *FIVE_A_MINUTE, times=5)
    for _ in range(10):
        clock.now += 5.0
        await reserve(*FIVE_A_MINUTE)

    clock.now = NOON + 60.0
    admitted = await reserve(*FIVE_A_MINUTE)

    assert admitted.refused is None


async def test_what_is_spread_over_a_minute_comes_back_one_by_one(reserve: Reserve, clock: Clock):
    for _ in range(5):
        await fill(reserve, *FIVE_A_MINUTE, times=1)
        clock.now += 10.0

    refused = await reserve(*FIVE_A_MINUTE)
    clock.now += 10.0
    first = await reserve(*FIVE_A_MINUTE)
    second = await reserve(*FIVE_A_MINUTE)

    assert refused.retry_after_s == 10.0
    assert first.refused is None
    assert second.retry_after_s == 10.0


async def test_a_clock_that_is_set_back_locks_nobody_out(reserve: Reserve, clock: Clock):
    await fill(reserve, *FIVE_A_MINUTE, times=5)

    clock.now -= 600.0
    admitted = await reserve(*FIVE_A_MINUTE)

    assert admitted.refused is None


async def test_states_say_what_is_left_and_when_all_of_it_is_free(reserve: Reserve, clock: Clock):
    demands = [
        demand("requests", "minute", 5),
        demand("tokens", "day", 1000, 300),
        demand("concurrency", "now", 4),
    ]
    await fill(reserve, *demands, times=1)
    clock.now += 20.0

    verdict = await reserve(*demands)

    assert [state.remaining for state in verdict.states] == [3, 400, 2]
    assert [state.reset_s for state in verdict.states] == [60.0, MIDNIGHT - clock.now, 1.0]


async def test_of_several_demands_all_are_taken_or_none(reserve: Reserve):
    tokens = demand("tokens", "minute", 1000, 10)
    await fill(reserve, *FIVE_A_MINUTE, tokens, times=5)

    refused = await reserve(*FIVE_A_MINUTE, tokens)
    alone = await reserve(tokens)

    assert [state.remaining for state in refused.states] == [0, 950]
    assert alone.states[0].remaining == 940


async def test_demands_on_one_counter_add_up(reserve: Reserve):
    low, high = demand("tokens", "minute", 8, 2), demand("tokens", "minute", 10, 3)

    first = await reserve(low, high)
    second = await reserve(low, high)

    assert [state.remaining for state in first.states] == [3, 5]
    assert second.refused == low
    assert [state.remaining for state in second.states] == [3, 5]


async def test_what_was_used_counts_once_on_a_counter_with_two_demands(
    limiter: Limiter, reserve: Reserve
):
    low, high = demand("tokens", "day", 8, 2), demand("tokens", "day", 10, 3)
    await reserve(low, high, name="a")

    await limiter.settle("a", [low, high], {"tokens": 4})

    assert (await reserve(demand("tokens", "day", 10, 0))).states[0].remaining == 6


async def test_the_refusal_names_the_demand_that_waits_longest(reserve: Reserve, clock: Clock):
    minute, day, now = (
        demand("requests", "minute", 1),
        demand("requests", "day", 1),
        demand("concurrency", "now", 1),
    )
    await fill(reserve, minute, day, now, times=1)

    all_of_them = await reserve(minute, day, now)
    two_of_them = await reserve(minute, now)
    one_of_them = await reserve(now)

    assert (all_of_them.refused, all_of_them.retry_after_s) == (day, MIDNIGHT - clock.now)
    assert (two_of_them.refused, two_of_them.retry_after_s) == (minute, 60.0)
    assert (one_of_them.refused, one_of_them.retry_after_s) == (now, 1.0)


@pytest.mark.parametrize("period", ["minute", "day", "month", "now"])
async def test_waiting_never_helps_who_asks_for_more_than_the_limit(
    reserve: Reserve, period: Period
):
    never = demand("tokens", period, 100, 101)

    refused = await reserve(demand("requests", "day", 10), never)

    assert refused.refused == never
    assert refused.retry_after_s is None


async def test_a_limit_of_zero_lets_nobody_in(reserve: Reserve):
    refused = await reserve(demand("requests", "minute", 0))

    assert refused.refused
    assert refused.retry_after_s is None


async def test_settlement_gives_back_what_was_not_used(limiter: Limiter, reserve: Reserve):
    demands = [demand("tokens", "minute", 1000, 700), demand("cost", "day", 90, 80)]
    await reserve(*demands, name="a")

    await limiter.settle("a", demands, {"tokens": 100, "cost": 5})
    verdict = await reserve(*demands)

    assert verdict.refused is None
    assert [state.remaining for state in verdict.states] == [200, 5]


async def test_settlement_counts_in_the_second_of_the_reservation(
    limiter: Limiter, reserve: Reserve, clock: Clock
):
    tokens = demand("tokens", "minute", 1000, 700)
    await reserve(tokens, name="a")
    clock.now += 30.0

    await limiter.settle("a", [tokens], {"tokens": 400})
    refused = await reserve(tokens)

    assert refused.retry_after_s == 30.0


async def test_what_was_used_may_be_more_than_was_reserved(limiter: Limiter, reserve: Reserve):
    demands = [demand("tokens", "minute", 100, 10), demand("tokens", "month", 100, 10)]
    await reserve(*demands, name="a")

    await limiter.settle("a", demands, {"tokens": 250})
    refused = await reserve(*demands)

    assert refused.refused == demands[1]
    assert [state.remaining for state in refused.states] == [0, 0]


async def test_what_is_not_named_was_not_used(limiter: Limiter, reserve: Reserve):
    demands = [demand("requests", "minute", 2), demand("cost", "month", 50, 50)]
    await reserve(*demands, name="a")

    await limiter.settle("a", demands, {"requests": 1})
    verdict = await reserve(*demands)

    assert [state.remaining for state in verdict.states] == [0, 0]
    assert verdict.refused is None


async def test_only_the_first_settlement_counts(limiter: Limiter, reserve: Reserve):
    tokens = demand("tokens", "day", 1000, 700)
    await reserve(tokens, name="a")

    await limiter.settle("a", [tokens], {"tokens": 100})
    await limiter.settle("a", [tokens], {"tokens": 900})

    assert (await reserve(demand("tokens", "day", 1000, 0))).states[0].remaining == 900


async def test_settling_what_was_refused_changes_nothing(limiter: Limiter, reserve: Reserve):
    tokens = demand("tokens", "day", 100, 60)
    await reserve(tokens)
    assert (await reserve(tokens, name="refused")).refused

    await limiter.settle("refused", [tokens], {"tokens": 60})

    assert (await reserve(demand("tokens", "day", 100, 0))).states[0].remaining == 40


async def test_a_settlement_that_comes_after_the_minute_changes_nothing(
    limiter: Limiter, reserve: Reserve, clock: Clock
):
    tokens = demand("tokens", "minute", 1000, 700)
    await reserve(tokens, name="a")
    clock.now += 200.0
    await reserve(tokens)

    await limiter.settle("a", [tokens], {"tokens": 0})

    assert (await reserve(demand("tokens", "minute", 1000, 0))).states[0].remaining == 300


async def test_what_ran_makes_room_when_it_is_settled(limiter: Limiter, reserve: Reserve):
    running = demand("concurrency", "now", 1)
    await reserve(running, name="a")
    refused = await reserve(running)

    await limiter.settle("a", [running], {"concurrency": 1})
    admitted = await reserve(running)

    assert refused.retry_after_s == 1.0
    assert admitted.refused is None


async def test_asked_twice_for_one_request_it_takes_once(limiter: Limiter, reserve: Reserve):
    demands = [demand("requests", "minute", 5), demand("concurrency", "now", 5)]

    await reserve(*demands, name="a")
    again = await reserve(*demands, name="a")
    await limiter.settle("a", demands, {"requests": 1})

    assert [state.remaining for state in again.states] == [4, 4]
    assert [state.remaining for state in (await reserve(*demands)).states] == [3, 4]


@pytest.mark.parametrize("metric", ["requests", "tokens", "cost"])
@pytest.mark.parametrize("period", ["minute", "day", "now"])
async def test_of_64_at_the_same_time_exactly_the_limit_is_let_in(
    reserve: Reserve, metric: Metric, period: Period
):
    verdicts = await asyncio.gather(*(reserve(demand(metric, period, 100, 7)) for _ in range(64)))

    assert sum(verdict.refused is None for verdict in verdicts) == 14


async def test_a_day_begins_with_what_the_ledger_says_and_asks_it_once(
    reserve: Reserve, books: Books
):
    tokens = demand("tokens", "day", 100, 10)
    books.used[tokens.counter] = 45

    verdicts = await asyncio.gather(*(reserve(tokens) for _ in range(64)))
    await reserve(tokens)

    assert sum(verdict.refused is None for verdict in verdicts) == 5
    assert books.asked == [(tokens.counter, TODAY)]


async def test_counters_that_nobody_knows_yet_are_asked_for_together(
    reserve: Reserve, books: Books
):
    demands = [demand("cost", "day", 10), demand("cost", "month", 10), demand("tokens", "day", 10)]

    verdict = await reserve(*demands)

    assert verdict.refused is None
    assert {counter for counter, _ in books.asked} == {each.counter for each in demands}


async def test_a_ledger_that_fails_is_asked_again_by_the_next(reserve: Reserve, books: Books):
    tokens = demand("tokens", "day", 100, 10)
    books.broken = True
    with pytest.raises(LookupError):
        await reserve(tokens)

    books.broken = False
    verdict = await reserve(tokens)

    assert verdict.states[0].remaining == 90


async def test_who_hangs_up_while_the_ledger_is_asked_ends_it_for_nobody_else(
    reserve: Reserve, books: Books
):
    tokens = demand("tokens", "day", 100, 10)
    first = asyncio.create_task(reserve(tokens))
    await books.being_asked.wait()
    second = asyncio.create_task(reserve(tokens))
    await asyncio.sleep(0)

    first.cancel()

    assert (await second).states[0].remaining == 90


@pytest.mark.parametrize(
    ("period", "now", "ends"),
    [
        ("day", "2026-08-01T23:59:58", "2026-08-02"),
        ("day", "2028-02-28T12:00:00", "2028-02-29"),
        ("month", "2026-01-31T23:59:59", "2026-02-01"),
        ("month", "2026-02-01T00:00:00", "2026-03-01"),
        ("month", "2026-12-15T08:00:00", "2027-01-01"),
    ],
)
async def test_days_and_months_end_as_the_utc_calendar_says(
    reserve: Reserve, clock: Clock, period: Period, now: str, ends: str
):
    clock.now = datetime.fromisoformat(f"{now}+00:00").timestamp()
    end = datetime.fromisoformat(f"{ends}T00:00:00+00:00").timestamp()
    once = demand("requests", period, 1)
    await reserve(once)

    refused = await reserve(once)
    clock.now = end - 0.001
    still = await reserve(once)
    clock.now = end
    admitted = await reserve(once)

    assert refused.retry_after_s == end - datetime.fromisoformat(f"{now}+00:00").timestamp()
    assert still.refused
    assert admitted.refused is None


async def test_a_settlement_after_midnight_counts_for_the_day_of_the_reservation(
    limiter: Limiter, reserve: Reserve, clock: Clock
):
    tokens = demand("tokens", "day", 1000, 700)
    clock.now = MIDNIGHT - 1.0
    await reserve(tokens, name="a")
    clock.now = MIDNIGHT + 1.0
    await reserve(demand("tokens", "day", 1000, 100))

    await limiter.settle("a", [tokens], {"tokens": 600})

    assert (await reserve(demand("tokens", "day", 1000, 0))).states[0].remaining == 900


async def test_counters_of_others_are_others(reserve: Reserve):
    await fill(reserve, demand("requests", "minute", 1, subject="user:1"), times=1)

    verdict = await reserve(
        demand("requests", "minute", 1, subject="user:2"),
        demand("requests", "minute", 1, subject="user:1/model:m"),
        demand("tokens", "minute", 1, subject="user:1"),
        demand("requests", "day", 1, subject="user:1"),
    )

    assert verdict.refused is None


async def test_sums_of_money_are_exact_however_large(limiter: Limiter, reserve: Reserve):
    dear = demand("cost", "month", 10**15, 10**15 - 1)
    await reserve(dear, name="a")
    refused = await reserve(demand("cost", "month", 10**15, 2))

    await limiter.settle("a", [dear], {"cost": 10**15 - 3})

    assert refused.states[0].remaining == 1
    assert (await reserve(demand("cost", "month", 10**15, 2))).states[0].remaining == 1


async def test_a_request_without_limits_is_let_in(limiter: Limiter, reserve: Reserve):
    verdict = await reserve(name="a")
    await limiter.settle("a", [], {"tokens": 5})

    assert verdict == Verdict([])


async def test_a_name_with_any_characters_is_a_counter_of_its_own(reserve: Reserve):
    subjects = ["user:1/model:a b", "user:1/model:ä\n", 'user:1/model:"}{', "user:1/model:"]

    for subject in subjects:
        await fill(reserve, Demand(Counter(subject, "requests", "minute"), 1, 1), times=1)
        assert (await reserve(Demand(Counter(subject, "requests", "minute"), 1, 1))).refused
