import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from galley.core.errors import EngineError, OverloadedError
from galley.engines.base import Begun, Floats
from galley.engines.batching import Batcher

pytestmark = pytest.mark.anyio


class Model:
    """Squares numbers; waits before each call until the test lets it go on."""

    def __init__(self, *, free: bool = False) -> None:
        self.calls: list[list[int]] = []
        self.threads: set[int] = set()
        self.started = threading.Semaphore(0)
        self._go = threading.Semaphore(1_000_000 if free else 0)

    def __call__(self, items: Sequence[int]) -> Floats:
        self.calls.append(list(items))
        self.threads.add(threading.get_ident())
        self.started.release()
        assert self._go.acquire(timeout=10)
        if -1 in items:
            raise ValueError("minus one")
        return np.array(items, np.float32)[:, None] ** 2

    def go(self, calls: int = 1) -> None:
        self._go.release(calls)

    async def running(self) -> None:
        """Wait until the next call has begun."""
        assert await asyncio.to_thread(self.started.acquire, timeout=10)


@asynccontextmanager
async def batching(
    model: Model, *, limit: int = 64, weigh: Callable[[int], int] = lambda _: 1, threads: int = 1
) -> AsyncGenerator[Batcher[int]]:
    batcher = Batcher(model, name="test", limit=limit, weigh=weigh, threads=threads)
    try:
        yield batcher
    finally:
        model.go(1_000)
        await batcher.close()


async def ask(batcher: Batcher[int], *items: int) -> list[float]:
    return (await batcher(items)).rows[:, 0].tolist()


async def test_what_waits_while_a_call_runs_goes_into_the_next_one_together() -> None:
    model = Model()
    async with batching(model) as batcher:
        first = asyncio.create_task(ask(batcher, 1))
        await model.running()
        others = [asyncio.create_task(ask(batcher, n, n + 1)) for n in (2, 4, 6)]
        await asyncio.sleep(0)

        model.go(2)

        assert await first == [1]
        assert await asyncio.gather(*others) == [[4, 9], [16, 25], [36, 49]]
        assert model.calls == [[1], [2, 3, 4, 5, 6, 7]]


async def test_all_calls_run_on_one_thread_that_is_not_the_event_loops() -> None:
    model = Model(free=True)
    async with batching(model) as batcher:
        await asyncio.gather(*(ask(batcher, n) for n in range(100)))

    assert len(model.threads) == 1
    assert model.threads != {threading.get_ident()}


async def test_calls_run_side_by_side_and_their_rows_come_in_order() -> None:
    model = Model()
    async with batching(model, limit=2, threads=3) as batcher:
        asked = asyncio.create_task(ask(batcher, *range(9)))
        for _ in range(3):
            await model.running()
        assert len(model.threads) == 3

        model.go(100)

        assert await asked == [n * n for n in range(9)]
    assert sorted(model.calls) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


async def test_a_call_that_fails_beside_others_fails_the_request_once() -> None:
    model = Model()
    async with batching(model, limit=1, threads=2) as batcher:
        bad = asyncio.create_task(ask(batcher, -1, 2, 3))
        good = asyncio.create_task(ask(batcher, 5))
        for _ in range(2):
            await model.running()

        model.go(100)

        with pytest.raises(EngineError):
            await bad
        assert await good == [25]


async def test_one_that_comes_later_does_not_wait_for_two_thousand() -> None:
    model = Model()
    async with batching(model, limit=64) as batcher:
        many = asyncio.create_task(ask(batcher, *range(2048)))
        await model.running()
        one = asyncio.create_task(ask(batcher, 5))
        await asyncio.sleep(0)

        model.go(2)

        assert await one == [25]
        assert not many.done()
        model.go(100)
        assert await many == [n * n for n in range(2048)]
    assert [len(call) for call in model.calls[:2]] == [64, 32 + 1]


async def test_callers_with_much_take_turns() -> None:
    model = Model()
    async with batching(model, limit=4) as batcher:
        blocker = asyncio.create_task(ask(batcher, 0))
        await model.running()
        waiting = [asyncio.create_task(ask(batcher, *[n] * 8)) for n in (1, 2)]
        await asyncio.sleep(0)

        model.go(100)
        await asyncio.gather(blocker, *waiting)

    assert model.calls[1:] == [[1, 1, 2, 2]] * 4


async def test_a_call_takes_no_more_than_the_limit_by_weight() -> None:
    model = Model()
    async with batching(model, limit=10, weigh=lambda n: n) as batcher:
        first = asyncio.create_task(ask(batcher, 1))
        await model.running()
        rest = [asyncio.create_task(ask(batcher, n)) for n in (6, 4, 3, 99, 1)]
        await asyncio.sleep(0)

        model.go(100)
        await asyncio.gather(first, *rest)

    assert model.calls == [[1], [6, 4], [3], [99], [1]]


async def test_a_call_that_fails_fails_only_those_in_it() -> None:
    model = Model()
    async with batching(model, limit=2) as batcher:
        first = asyncio.create_task(ask(batcher, 1))
        await model.running()
        bad = asyncio.create_task(ask(batcher, -1, 2, 3, 4))
        await asyncio.sleep(0)
        model.go()
        await model.running()
        late = asyncio.create_task(ask(batcher, 7))
        await asyncio.sleep(0)

        model.go(100)

        assert await first == [1]
        assert await late == [49]
        with pytest.raises(EngineError) as failure:
            await bad
        assert isinstance(failure.value.__cause__, ValueError)
    assert model.calls == [[1], [-1, 2], [7]]


async def test_what_nobody_waits_for_any_more_is_not_run() -> None:
    model = Model()
    async with batching(model) as batcher:
        first = asyncio.create_task(ask(batcher, 1))
        await model.running()
        leaving = asyncio.create_task(ask(batcher, 2, 3))
        staying = asyncio.create_task(ask(batcher, 4))
        await asyncio.sleep(0)

        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        model.go(100)

        assert await asyncio.gather(first, staying) == [[1], [16]]
    assert model.calls == [[1], [4]]


async def test_one_who_leaves_in_the_middle_is_not_run_to_the_end() -> None:
    model = Model()
    async with batching(model, limit=2) as batcher:
        leaving = asyncio.create_task(ask(batcher, 1, 2, 3, 4, 5, 6))
        await model.running()

        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        model.go(100)

        assert await ask(batcher, 9) == [81]
    assert model.calls == [[1, 2], [9]]


async def test_one_who_leaves_is_told_how_much_was_begun() -> None:
    model, begun = Model(), Begun()
    async with batching(model, limit=20, weigh=lambda _: 10) as batcher:
        asked = asyncio.create_task(batcher([1, 2, 3, 4, 5], begun))
        await model.running()

        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    assert begun == Begun(items=2, tokens=20)


async def test_it_says_how_long_items_waited_and_ran() -> None:
    model = Model()
    async with batching(model) as batcher:
        first = asyncio.create_task(batcher([1]))
        await model.running()
        second = asyncio.create_task(batcher([2]))
        await asyncio.sleep(0.05)

        model.go(100)
        alone, queued = await asyncio.gather(first, second)

    assert alone.run_s >= 0.05
    assert alone.queue_s < 0.05 <= queued.queue_s
    assert queued.run_s < 0.05


async def test_closing_finishes_the_running_call_and_refuses_the_rest() -> None:
    model = Model()
    async with batching(model) as batcher:
        running = asyncio.create_task(ask(batcher, 1))
        await model.running()
        waiting = asyncio.create_task(ask(batcher, 2))
        await asyncio.sleep(0)

        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        model.go(100)
        await closing

        assert await running == [1]
        for refused in (waiting, ask(batcher, 3)):
            with pytest.raises(OverloadedError, match="shut down"):
                await refused
        await batcher.close()
    assert model.calls == [[1]]
