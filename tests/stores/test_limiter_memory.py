"""What only the limiter in memory can show."""

import gc
from collections.abc import Iterator

import pytest

from galley.stores.limiter_memory import MemoryLimiter
from galley.stores.limiter_tallies import Bucket, Gauge, Total, Window
from tests.stores.books import Books, Clock, demand

pytestmark = pytest.mark.anyio


@pytest.fixture
def fresh_heap() -> Iterator[None]:
    """Leave out all that was there before the test: looking through it takes seconds."""
    gc.freeze()
    yield
    gc.unfreeze()


def kept() -> int:
    """How many counters and buckets the test holds."""
    gc.collect()
    return sum(type(each) in {Bucket, Gauge, Total, Window} for each in gc.get_objects())


@pytest.mark.usefixtures("fresh_heap")
async def test_counters_that_nobody_uses_any_more_are_let_go(clock: Clock, books: Books):
    limiter = MemoryLimiter(books.spent, clock=clock)
    for user in range(100):
        demands = [
            demand("requests", "minute", 1, subject=f"user:{user}"),
            demand("requests", "day", 2, subject=f"user:{user}"),
            demand("concurrency", "now", 1, subject=f"user:{user}"),
        ]
        await limiter.reserve(f"request-{user}", demands)
        await limiter.reserve(f"refused-{user}", demands)
        await limiter.settle(f"request-{user}", demands, {"requests": 1})
    busy = kept()

    for _ in range(3):
        clock.now += 86_400.0
        await limiter.reserve("other", [demand("requests", "day", 10)])

    assert busy >= 300
    assert kept() <= 2


async def test_what_runs_for_long_is_counted_for_as_long(clock: Clock, books: Books):
    limiter = MemoryLimiter(books.spent, clock=clock)
    running = demand("concurrency", "now", 1)
    await limiter.reserve("long", [running])

    for number in range(10):
        clock.now += 61.0
        await limiter.reserve(f"other-{number}", [demand("requests", "minute", 100)])

    assert (await limiter.reserve("second", [running])).refused == running
