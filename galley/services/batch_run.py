"""Answering the lines of a batch, several at a time."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Literal

from galley.core.caller import Caller
from galley.core.errors import OverloadedError, RateLimitError
from galley.db.work_tables import Batch
from galley.services.batch_lines import Question, read_question
from galley.services.batch_results import Result, Results
from galley.services.batch_shapes import shape_of
from galley.services.charge import Arrival
from galley.services.job_kinds import derived_id
from galley.services.lines import Line
from galley.services.side_door import Answered, Asked, SideDoor

AT_ONCE = 16
"""Lines of one batch that are asked at the same time."""
BEGUN_AT_ONCE = 32
"""Lines whose beginning is written down together."""
NAP_S = 1.0
LONGEST_WAIT_S = 15.0
"""Whoever has to wait longer gives way to other jobs meanwhile,"""
LONGEST_ABSENCE_S = 300.0
"""and comes back after so long, as it may have been cancelled."""

Ending = Literal["cancelled", "expired"] | RateLimitError


class LineRun:
    """One run over the lines of `batch` that are not done yet."""

    def __init__(
        self,
        batch: Batch,
        caller: Caller,
        results: Results,
        answer: SideDoor,
        clock: Callable[[], datetime],
    ) -> None:
        self.ending: Ending | None = None
        """Why it is over before all lines are done."""
        self._over = asyncio.Event()
        self._batch = batch
        self._shape = shape_of(batch)
        self._caller = caller
        self._results = results
        self._answer = answer
        self._clock = clock
        self._calm_at = 0.0  # by the loop's clock

    async def work(self, groups: AsyncGenerator[list[Line]]) -> None:
        """Answer the lines of `groups`; those that were begun are done when this returns."""
        free = asyncio.Semaphore(most_at_once(self._caller))
        try:
            async with asyncio.TaskGroup() as tasks, aclosing(groups):
                async for lines in groups:
                    for some in self._left(lines):
                        for question in await self._begin(some):
                            await free.acquire()
                            if self.ending is not None:
                                return
                            task = tasks.create_task(self._ask(question))
                            task.add_done_callback(lambda _: free.release())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def stop(self, ending: Ending) -> None:
        """Begin no more lines."""
        if self.ending is None:
            self.ending = ending
            self._over.set()

    def _left(self, lines: Sequence[Line]) -> Generator[list[Line]]:
        left = [line for line in lines if line.number not in self._results]
        for begin in range(0, len(left), BEGUN_AT_ONCE):
            yield left[begin : begin + BEGUN_AT_ONCE]

    async def _begin(self, lines: Sequence[Line]) -> list[Question]:
        """Read `lines`, and write down that they are begun."""
        endpoint = self._batch.endpoint
        questions = await asyncio.to_thread(lambda: [read_question(n, endpoint) for n in lines])
        await self._results.begin((line.number for line in lines), self._clock())
        return questions

    async def _ask(self, question: Question) -> None:
        """Ask until there is an answer: limits, and models that are busy, are waited for."""
        while not await self._is_over():
            arrival = self._arrival(question)
            asked = Asked(self._caller, self._batch.endpoint, question.body, arrival)
            try:
                answered = await self._answer(asked)
            except (RateLimitError, OverloadedError) as error:
                self._wait(error)
            else:
                await self._results.add(self._result(question, arrival.request_id, answered))
                return

    def _result(self, question: Question, request_id: str, answered: Answered) -> Result:
        return Result(
            question.line,
            answered.status == 200,
            answered.prompt_tokens,
            answered.cached_tokens,
            answered.completion_tokens,
            self._shape.answered(question, request_id, answered),
        )

    def _arrival(self, question: Question) -> Arrival:
        begun = self._results.begun(question.line)
        assert begun is not None  # noqa: S101 - `_begin` has written it down
        request_id = derived_id(begun, self._batch.id, str(question.line))
        return Arrival(request_id, None, at=datetime.fromtimestamp(begun / 1000, UTC))

    def _wait(self, error: RateLimitError | OverloadedError) -> None:
        seconds = max(error.retry_after or NAP_S, 0.05)
        if seconds > LONGEST_WAIT_S:
            absence_s = min(seconds, LONGEST_ABSENCE_S)
            code = error.code or type(error).__name__
            self.stop(RateLimitError(error.message, code=code, retry_after=absence_s))
        self._calm_at = max(self._calm_at, asyncio.get_running_loop().time() + seconds)

    async def _is_over(self) -> bool:
        """Wait as long as any line was told to; tell whether it was stopped meanwhile."""
        if not self._over.is_set() and self._calm_at > asyncio.get_running_loop().time():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._calm_at):
                    await self._over.wait()
        return self._over.is_set()


def most_at_once(caller: Caller) -> int:
    """How many lines may run at the same time, so that their owner can still ask something else."""
    limits = [rule.limit for rule in caller.rules if rule.counter.metric == "concurrency"]
    return max(1, min([AT_ONCE, *(limit // 2 for limit in limits)]))
