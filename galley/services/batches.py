"""Batches as their owners see them; `batch_jobs.py` does them."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from galley.core.caller import Caller
from galley.core.errors import ConflictError, NotFoundError
from galley.db.batches import ENDED, change_batch, find_batch, list_batches
from galley.db.cursors import Page
from galley.db.jobs import ENDED as ENDED_JOBS
from galley.db.jobs import find_job, hurry_job
from galley.db.session import Sessions
from galley.db.tables import parse_id, utc_now
from galley.db.work_tables import Batch, Job
from galley.schemas.batches import BatchCreate, BatchParams
from galley.services.batch_jobs import BatchJobs
from galley.services.batch_shapes import OPENAI, Shape, shape_of
from galley.services.jobs import JobService

NOTICED_WITHIN = timedelta(seconds=3)
"""Whoever does a batch looks once a second whether it is still theirs to do."""


class Batches:
    """Looks after the batches of each user, those that are told in one shape."""

    def __init__(
        self,
        sessions: Sessions,
        jobs: JobService,
        work: BatchJobs,
        shape: Shape = OPENAI,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._jobs = jobs
        self._work = work
        self._shape = shape
        self._clock = clock
        self._ending = asyncio.Lock()  # who ends a batch forgets what the next one would read

    async def create(
        self,
        caller: Caller,
        asked: BatchCreate | BatchParams,
        *,
        total: int = 0,
        request_id: str | None = None,
    ) -> Batch:
        """Make a batch, and have it done.

        Args:
            total: how many lines it has; 0 where nobody has counted them yet.
        Raises:
            NotFoundError, BadRequestError, PermissionDeniedError: as `BatchJobs.check`.
            RateLimitError: too many jobs of the caller wait.
        """
        params = asked.model_dump(mode="json", exclude_none=True)
        made = await self._jobs.accept(caller, "run_batch", params, request_id=request_id)
        batch = await self._work.open(made.id, caller, asked, total=total)
        await self._jobs.start(made.id)
        return batch

    async def find(self, caller: Caller, batch_id: str) -> Batch:
        """Return a batch of `caller`.

        Raises:
            NotFoundError: they have no such batch.
        """
        return await self._settled(caller, await self._find(caller, batch_id))

    async def list(
        self, caller: Caller, *, after: str | None, before: str | None = None, limit: int
    ) -> Page[Batch]:
        """List batches of `caller`, the latest first.

        Args:
            before: the first id of the page that follows the one that is wanted.
        Raises:
            BadRequestError: one of them is not a batch's id.
        """
        prefix = self._shape.prefix
        async with self._sessions() as session:
            page = await list_batches(
                session,
                user_id=caller.user_id,
                endpoints=self._shape.endpoints,
                after=after and after.removeprefix(prefix),
                before=before and before.removeprefix(prefix),
                limit=limit,
            )
        return Page([await self._settled(caller, batch) for batch in page.rows], page.has_more)

    async def cancel(self, caller: Caller, batch_id: str) -> Batch:
        """Stop a batch of `caller`: what is done stays, what has begun is finished.

        Raises:
            NotFoundError: they have no such batch.
            ConflictError: it has ended, or is about to.
        """
        batch = await self._settled(caller, await self._find(caller, batch_id))
        async with self._sessions.begin() as session:
            now = self._clock()
            cancelled = await change_batch(
                session, batch.id, ("validating", "in_progress"),
                status="cancelling", cancelling_at=now,
            )  # fmt: skip
            await hurry_job(session, batch.id, now=now)  # it may wait for a limit
        await self._jobs.start(batch.id)
        batch = await self._find(caller, batch_id)
        if not cancelled and batch.status != "cancelling":
            raise ConflictError(
                f"A batch that is {batch.status} cannot be cancelled.", code="batch_ended"
            )
        return batch

    async def _find(self, caller: Caller, batch_id: str) -> Batch:
        prefix = self._shape.prefix
        known = parse_id(batch_id[len(prefix) :]) if batch_id.startswith(prefix) else None
        async with self._sessions() as session:
            found = known and await find_batch(session, user_id=caller.user_id, batch_id=known)
        if not found or shape_of(found) is not self._shape:
            raise NotFoundError(f"You have no batch {batch_id[:64]!r}.", code="batch_not_found")
        return found

    async def _settled(self, caller: Caller, batch: Batch) -> Batch:
        """Bring a batch to its end whose job was cancelled or given up."""
        if batch.status in ENDED:
            return batch
        async with self._sessions() as session:
            job = await find_job(session, user_id=caller.user_id, job_id=batch.id)
        if job is not None and (job.status not in ENDED_JOBS or self._may_go_on(job)):
            return batch
        async with self._ending:
            batch = await self._find(
                caller, self._shape.id_of(batch)
            )  # it may have ended meanwhile
            if batch.status in ENDED:
                return batch
            if job is None or job.status == "cancelled":
                return await self._work.end(caller, batch, "cancelled")
            return await self._work.end(caller, batch, "failed", [_failure(job)])

    def _may_go_on(self, job: Job) -> bool:
        """Whether a job that was cancelled just now may not have noticed, and still has results."""
        cancelled_at = job.finished_at if job.status == "cancelled" else None
        return cancelled_at is not None and self._clock() < cancelled_at + NOTICED_WITHIN


def _failure(job: Job) -> dict[str, str | None]:
    return {
        "code": job.error_code or "internal_error",
        "message": job.error_message or "The server failed.",
    }
