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
from typing import Any, Generic, TypeVar

import numpy as np

from galley.core.errors import EngineError, GalleyError, OverloadedError
from galley.engines.base import Begun, Floats

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
    done: int = 0
    failure: Exception | None = None
    queue_s: float = 0.0
    run_s: float = 0.0
    rows: dict[int, Floats] = field(default_factory=dict[int, Floats])
    """What is done, by the number of the first item."""

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for the rest; the future may have been cancelled."""
        return not self.failure and not self.future.done()

    @property
    def exhausted(self) -> bool:
        return self.taken == len(self.items)

    @property
    def settled(self) -> bool:
        return self.failure is not None or self.done == len(self.items)


@dataclass(frozen=True, slots=True)
class _Part(Generic[T]):
    """What one call takes of a job: the items from `begin` to before `end`."""

    job: _Job[T]
    begin: int
    end: int

    @property
    def items(self) -> Sequence[T]:
        return self.job.items[self.begin : self.end]


class Batcher(Generic[T]):
    """Runs `run` on threads of its own, over the items of whoever waits.

    Callers take turns, and one call has room for a share of everyone's items: two thousand
    texts do not hold up a single one that comes later. All callers share one event loop.

    Args:
        run: the model; gives one row per item. With several threads, it runs at the same time.
        name: of the threads.
        limit: how much one call of the model may cost; a heavier item goes alone.
        weigh: what an item costs.
        threads: how many calls may run at the same time.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Floats],
        *,
        name: str,
        limit: int,
        weigh: Callable[[T], int] = lambda _: 1,
        threads: int = 1,
    ) -> None:
        self._run = run
        self._limit = limit
        self._weigh = weigh
        self._queue: deque[_Job[T]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def __call__(self, items: Sequence[T], begun: Begun | None = None) -> Batched:
        """Return one row per item. A cancelled caller's items are not run any more.

        Args:
            begun: gets the items that were run, whoever waited for them, and what they weigh.
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
        try:
            return await job.future
        finally:
            if begun is not None:
                begun.items += job.taken
                begun.tokens += sum(map(self._weigh, items[: job.taken]))

    async def close(self) -> None:
        """Finish the calls that run, refuse those who wait, end the threads. Safe to repeat."""
        with self._wake:
            self._closed = True
            self._refuse()
            self._wake.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        while parts := self._next():
            started = time.perf_counter()
            rows: Floats | None = None
            failure: Exception | None = None
            try:
                rows = self._run([item for part in parts for item in part.items])
            except Exception as error:  # whatever it is, those who wait must hear of it
                failure = error
            self._note(parts, started, rows, failure)

    def _next(self) -> Sequence[_Part[T]]:
        """Wait for work and take what fits into one call; nothing means that this is the end."""
        with self._wake:
            while not self._closed:
                self._queue = deque(job for job in self._queue if job.wanted)
                if self._queue:
                    parts = self._take()
                    if self._queue:
                        self._wake.notify()  # whoever is idle takes from the rest
                    return parts
                self._wake.wait()
            return []

    def _take(self) -> Sequence[_Part[T]]:
        parts: list[_Part[T]] = []
        room = self._limit
        for waiting in range(len(self._queue), 0, -1):
            job = self._queue[0]
            begin, cost = job.taken, self._weigh(job.items[job.taken])
            if parts and cost > room:
                break
            job.taken += 1
            while not job.exhausted:
                weight = self._weigh(job.items[job.taken])
                if cost + weight > room // waiting:
                    break
                cost += weight
                job.taken += 1
            parts.append(_Part(job, begin, job.taken))
            room -= cost
            self._queue.popleft()
            if not job.exhausted:
                self._queue.append(job)  # behind those who came since
        return parts

    def _note(
        self,
        parts: Sequence[_Part[T]],
        started: float,
        rows: Floats | None,
        failure: Exception | None,
    ) -> None:
        """Keep what a call made, and wake those who have everything now."""
        spent = time.perf_counter() - started
        at = 0
        with self._wake:
            for part in parts:
                job, size = part.job, part.end - part.begin
                job.queue_s = job.queue_s or started - job.since
                job.run_s += spent
                job.failure = job.failure or failure
                if rows is not None:
                    job.rows[part.begin] = rows[at : at + size]
                job.done += size
                at += size
            self._settle([part.job for part in parts if part.job.settled])

    def _refuse(self) -> None:
        for job in self._queue:
            job.failure = OverloadedError("The model is shut down.")
        self._settle(list(self._queue))

    def _settle(self, jobs: Sequence[_Job[T]]) -> None:
        """Wake the callers, in one step over to the event loop."""
        if jobs:
            # The loop is gone when the server was stopped harder than by `close`.
            with contextlib.suppress(RuntimeError):
                jobs[0].future.get_loop().call_soon_threadsafe(_answer, jobs)


def _answer(jobs: Sequence[_Job[Any]]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.failure is None:
            rows = [job.rows[begin] for begin in sorted(job.rows)]
            whole = rows[0] if len(rows) == 1 else np.concatenate(rows)
            job.future.set_result(Batched(whole, job.queue_s, job.run_s))
        elif isinstance(job.failure, GalleyError):
            job.future.set_exception(job.failure)
        else:
            error = EngineError("The model failed on this input.")
            error.__cause__ = job.failure
            job.future.set_exception(error)
