"""Join what waits while the model is busy into one call of it.

No delay is added: whoever finds the model idle is served at once, alone; those who come
meanwhile make the next call together.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from galley.core.errors import EngineError, GalleyError, OverloadedError
from galley.engines.base import Floats

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batched:
    """One row per item, in order; how long they waited, and how long their calls took."""

    rows: Floats
    queue_s: float
    run_s: float


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """One caller's items, which may be spread over several calls of the model."""

    items: Sequence[T]
    future: asyncio.Future[Batched]
    since: float
    taken: int = 0
    failed: bool = False
    queue_s: float = 0.0
    run_s: float = 0.0
    rows: list[Floats] = field(default_factory=list[Floats])

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for the rest; the future may have been cancelled."""
        return not self.failed and not self.future.done()

    @property
    def exhausted(self) -> bool:
        return self.taken == len(self.items)


class Batcher(Generic[T]):
    """Runs `run` on a thread of its own, over the items of whoever waits.

    Callers take turns, and one call has room for a share of everyone's items: two thousand
    texts do not hold up a single one that comes later. All callers share one event loop.

    Args:
        run: the model; gives one row per item.
        name: of the thread.
        limit: how much one call of the model may cost; a heavier item goes alone.
        weigh: what an item costs.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Floats],
        *,
        name: str,
        limit: int,
        weigh: Callable[[T], int] = lambda _: 1,
    ) -> None:
        self._run = run
        self._limit = limit
        self._weigh = weigh
        self._queue: deque[_Job[T]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def __call__(self, items: Sequence[T]) -> Batched:
        """Return one row per item. A cancelled caller's items are not run any more.

        Raises:
            EngineError: the model failed on these items.
            OverloadedError: the model is shut down.
        """
        job = _Job(items, asyncio.get_running_loop().create_future(), time.perf_counter())
        with self._wake:
            if self._closed:
                raise OverloadedError("The model is shut down.")
            self._queue.append(job)
            self._wake.notify()
        return await job.future

    async def close(self) -> None:
        """Finish the call that runs, refuse those who wait, end the thread. Safe to repeat."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            rows: Floats | None = None
            failure: Exception | None = None
            try:
                rows = self._run([item for _, items in batch for item in items])
            except Exception as error:  # whatever it is, those who wait must hear of it
                failure = error
            spent = time.perf_counter() - started
            at = 0
            for job, items in batch:
                job.queue_s = job.queue_s or started - job.since
                job.run_s += spent
                job.failed = rows is None
                if rows is not None:
                    job.rows.append(rows[at : at + len(items)])
                at += len(items)
            self._settle([job for job, _ in batch if job.failed or job.exhausted], failure)

    def _next(self) -> list[tuple[_Job[T], Sequence[T]]]:
        """Wait for work and take what fits into one call; nothing means that this is the end."""
        with self._wake:
            while True:
                self._queue = deque(job for job in self._queue if job.wanted)
                if self._closed:
                    self._settle(list(self._queue), OverloadedError("The model is shut down."))
                    return []
                if self._queue:
                    return self._take()
                self._wake.wait()

    def _take(self) -> list[tuple[_Job[T], Sequence[T]]]:
        batch: list[tuple[_Job[T], Sequence[T]]] = []
        room = self._limit
        for waiting in range(len(self._queue), 0, -1):
            job = self._queue[0]
            begin, cost = job.taken, self._weigh(job.items[job.taken])
            if batch and cost > room:
                break
            job.taken += 1
            while not job.exhausted:
                weight = self._weigh(job.items[job.taken])
                if cost + weight > room // waiting:
                    break
                cost += weight
                job.taken += 1
            batch.append((job, job.items[begin : job.taken]))
            room -= cost
            self._queue.popleft()
            if not job.exhausted:
                self._queue.append(job)  # behind those who came since
        return batch

    def _settle(self, jobs: Sequence[_Job[T]], failure: Exception | None) -> None:
        """Wake the callers, in one step over to the event loop."""
        if jobs:
            # The loop is gone when the server was stopped harder than by `close`.
            with contextlib.suppress(RuntimeError):
                jobs[0].future.get_loop().call_soon_threadsafe(_answer, jobs, failure)


def _answer(jobs: Sequence[_Job[T]], failure: Exception | None) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if failure is None:
            rows = job.rows[0] if len(job.rows) == 1 else np.concatenate(job.rows)
            job.future.set_result(Batched(rows, job.queue_s, job.run_s))
        elif isinstance(failure, GalleyError):
            job.future.set_exception(failure)
        else:
            error = EngineError("The model failed on this input.")
            error.__cause__ = failure
            job.future.set_exception(error)
