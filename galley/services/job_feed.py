"""What happens to a job, as it happens: here by a bell, elsewhere by looking."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager, suppress
from typing import Literal, NamedTuple

from galley.core.caller import Caller
from galley.core.errors import NotFoundError, RateLimitError
from galley.schemas.base import Reply
from galley.schemas.jobs import FINISHED, JobReply
from galley.services.job_bell import JobBell
from galley.services.jobs import JobService

LOOK_S = 1.0
QUIET_LOOKS = 10
"""After so many looks at which nothing was new, something is said all the same."""
MOST_WATCHED = 20
"""By one user at the same time: each of them looks into the database once a second."""


class JobEvent(NamedTuple):
    """Something that happened to a job.

    Args:
        number: of the last line of the log that was told.
    """

    name: Literal["state", "progress", "log", "end"]
    data: Reply
    number: int


class JobFeed:
    """Tells what happens to a job until it has ended.

    Args:
        look_s: how often to look for what happened elsewhere, in seconds.
    """

    def __init__(self, jobs: JobService, bell: JobBell, *, look_s: float = LOOK_S) -> None:
        self._jobs = jobs
        self._bell = bell
        self._look_s = look_s
        self._watched = Counter[str]()

    def close(self) -> None:
        """End all streams: the server stops, and who watches may come back to the next one."""
        self._bell.close()

    async def watch(
        self, caller: Caller, job_id: str, *, after: int | None = None
    ) -> AsyncGenerator[JobEvent | None]:
        """Yield a job of the caller as it stands, then what changes, and its end; None keeps alive.

        Args:
            after: the last line of the log that the caller has, where they come back.
        Raises:
            NotFoundError: they have no such job.
            RateLimitError: they watch as many as they may.
        """
        with self._counted(caller):
            watching = self._watch(caller, await self._jobs.find(caller, job_id), after)
            async with aclosing(watching):
                async for event in watching:
                    yield event

    @contextmanager
    def _counted(self, caller: Caller) -> Generator[None]:
        """Count one that is watched, for a block."""
        if self._watched[caller.user_id] >= MOST_WATCHED:
            raise RateLimitError(
                f"You watch {MOST_WATCHED} jobs already, which is the most there may be. End some"
                " streams first.",
                code="too_many_streams",
                retry_after=5,
            )
        self._watched[caller.user_id] += 1
        try:
            yield
        finally:
            self._watched[caller.user_id] -= 1
            if not self._watched[caller.user_id]:
                del self._watched[caller.user_id]

    async def _watch(
        self, caller: Caller, job: JobReply, after: int | None
    ) -> AsyncGenerator[JobEvent | None]:
        told = _last(job) if after is None else after
        yield JobEvent("state", job, told)
        with self._bell.listen(job.id) as rung:
            quiet, before = 0, job
            while True:
                news = list(_news(before, job, told))
                for event in news:
                    yield event
                if job.status in FINISHED:
                    return
                told, before = max(told, _last(job)), job
                quiet = 0 if news else quiet + 1
                if quiet % QUIET_LOOKS == QUIET_LOOKS - 1:
                    yield None
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await rung.wait()
                rung.clear()
                if self._bell.closed:
                    return
                try:
                    job = await self._jobs.find(caller, job.id)
                except NotFoundError:  # it ended, and was deleted
                    return


def _last(job: JobReply) -> int:
    return job.log[-1].number if job.log else 0


def _news(before: JobReply, job: JobReply, told: int) -> list[JobEvent]:
    """What is new since `before`, of which the lines up to `told` are known."""
    news = [JobEvent("log", line, line.number) for line in job.log if line.number > told]
    last = max(told, _last(job))
    if job.progress != before.progress:
        news.append(JobEvent("progress", job.progress, last))
    if job.status in FINISHED:
        news.append(JobEvent("end", job, last))
    elif (job.status, job.attempts) != (before.status, before.attempts):
        news.append(JobEvent("state", job, last))
    return news
