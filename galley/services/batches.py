"""Batches as their owners see them; `batch_jobs.py` does them."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from galley.core.caller import Caller
from galley.core.errors import ConflictError, NotFoundError
from galley.db.batches import ENDED, change_batch, find_batch, list_batches
from galley.db.jobs import ENDED as ENDED_JOBS
from galley.db.jobs import find_job, hurry_job
from galley.db.session import Sessions
from galley.db.tables import parse_id, utc_now
from galley.db.work_tables import Batch, Job
from galley.schemas.batches import (
    BatchCounts,
    BatchCreate,
    BatchFault,
    BatchFaults,
    BatchList,
    BatchReply,
    BatchUsage,
    InputTokensDetails,
    OutputTokensDetails,
)
from galley.services.batch_jobs import BatchJobs, batch_id_of
from galley.services.files import wire_id
from galley.services.jobs import JobService


class Batches:
    """Looks after the batches of each user."""

    def __init__(
        self,
        sessions: Sessions,
        jobs: JobService,
        work: BatchJobs,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._jobs = jobs
        self._work = work
        self._clock = clock
        self._ending = asyncio.Lock()  # who ends a batch forgets what the next one would read

    async def create(
        self, caller: Caller, asked: BatchCreate, *, request_id: str | None = None
    ) -> BatchReply:
        """Make a batch, and have it done.

        Raises:
            NotFoundError, BadRequestError, PermissionDeniedError: as `BatchJobs.check`.
            RateLimitError: too many jobs of the caller wait.
        """
        params = asked.model_dump(mode="json", exclude_none=True)
        made = await self._jobs.submit(caller, "run_batch", params, request_id=request_id)
        return reply_of(await self._work.open(made.id, caller, asked))

    async def find(self, caller: Caller, batch_id: str) -> BatchReply:
        """Describe a batch of `caller`.

        Raises:
            NotFoundError: they have no such batch.
        """
        return reply_of(await self._settled(caller, await self._find(caller, batch_id)))

    async def list(self, caller: Caller, *, after: str | None, limit: int) -> BatchList:
        """List batches of `caller`, the latest first.

        Raises:
            BadRequestError: `after` is not a batch's id.
        """
        known = after and after.removeprefix("batch_")
        async with self._sessions() as session:
            page = await list_batches(session, user_id=caller.user_id, after=known, limit=limit)
        data = [reply_of(await self._settled(caller, batch)) for batch in page.rows]
        return BatchList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=page.has_more,
        )

    async def cancel(self, caller: Caller, batch_id: str) -> BatchReply:
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
        return reply_of(batch)

    async def _find(self, caller: Caller, batch_id: str) -> Batch:
        known = parse_id(batch_id[6:]) if batch_id.startswith("batch_") else None
        async with self._sessions() as session:
            found = known and await find_batch(session, user_id=caller.user_id, batch_id=known)
        if not found:
            raise NotFoundError(f"You have no batch {batch_id[:64]!r}.", code="batch_not_found")
        return found

    async def _settled(self, caller: Caller, batch: Batch) -> Batch:
        """Bring a batch to its end whose job was cancelled or given up."""
        if batch.status in ENDED:
            return batch
        async with self._sessions() as session:
            job = await find_job(session, user_id=caller.user_id, job_id=batch.id)
        if job is not None and job.status not in ENDED_JOBS:
            return batch
        async with self._ending:
            batch = await self._find(caller, batch_id_of(batch))  # it may have ended meanwhile
            if batch.status in ENDED:
                return batch
            if job is None or job.status == "cancelled":
                return await self._work.end(caller, batch, "cancelled")
            return await self._work.end(caller, batch, "failed", [_failure(job)])


def _failure(job: Job) -> dict[str, str | None]:
    return {
        "code": job.error_code or "internal_error",
        "message": job.error_message or "The server failed.",
    }


def reply_of(batch: Batch) -> BatchReply:
    """Describe `batch` as the API does."""
    prompt, completion = batch.prompt_tokens, batch.completion_tokens
    faults = [BatchFault.model_validate(fault) for fault in batch.errors or ()]
    return BatchReply(
        id=batch_id_of(batch),
        endpoint=batch.endpoint,
        model=batch.model,
        errors=BatchFaults(data=faults) if faults else None,
        input_file_id=wire_id(batch.input_file_id),
        completion_window="24h",
        status=batch.status,
        output_file_id=batch.output_file_id and wire_id(batch.output_file_id),
        error_file_id=batch.error_file_id and wire_id(batch.error_file_id),
        created_at=int(batch.created_at.timestamp()),
        in_progress_at=_unix(batch.in_progress_at),
        expires_at=int(batch.expires_at.timestamp()),
        finalizing_at=_unix(batch.finalizing_at),
        completed_at=_ended_at(batch, "completed"),
        failed_at=_ended_at(batch, "failed"),
        expired_at=_ended_at(batch, "expired"),
        cancelled_at=_ended_at(batch, "cancelled"),
        cancelling_at=_unix(batch.cancelling_at),
        request_counts=BatchCounts(
            total=batch.total, completed=batch.completed, failed=batch.failed
        ),
        usage=BatchUsage(
            input_tokens=prompt,
            input_tokens_details=InputTokensDetails(cached_tokens=batch.cached_tokens),
            output_tokens=completion,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=prompt + completion,
        ),
        metadata=batch.labels,
    )


def _ended_at(batch: Batch, status: str) -> int | None:
    return _unix(batch.ended_at) if batch.status == status else None


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
