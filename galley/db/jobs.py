"""Queries on `jobs` as their owners see them; `job_leases.py` has those of who does them."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from galley.db.cursors import Page, fetch_page
from galley.db.requests import first_id
from galley.db.tables import parse_id
from galley.db.webhooks import announce
from galley.db.work_tables import Job, JobStatus, Webhook

ENDED = ("succeeded", "failed", "cancelled")


async def add_job(session: AsyncSession, job: Job) -> None:
    """Add `job`.

    Raises:
        IntegrityError: its user has used its idempotency key.
    """
    session.add(job)
    await session.flush()


async def find_job(
    session: AsyncSession, *, user_id: str, job_id: str, change: bool = False
) -> Job | None:
    """A job of `user_id`; with `change`, nobody else may change it until the end."""
    query = select(Job).where(Job.id == parse_id(job_id), Job.user_id == user_id)
    return await session.scalar(query.with_for_update() if change else query)


async def find_by_idempotency_key(session: AsyncSession, *, user_id: str, key: str) -> Job | None:
    """The job that `user_id` made with `key`."""
    query = select(Job).where(Job.user_id == user_id, Job.idempotency_key == key)
    return await session.scalar(query)


async def count_queued(session: AsyncSession, *, user_id: str) -> int:
    """How many jobs of `user_id` wait."""
    query = (
        select(func.count()).select_from(Job).where(Job.status == "queued", Job.user_id == user_id)
    )
    return await session.scalar(query) or 0


async def list_jobs(
    session: AsyncSession,
    *,
    user_id: str,
    status: JobStatus | None = None,
    kind: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Page[Job]:
    """Jobs of `user_id`, the latest first; those of one status or kind where asked for.

    Their results and logs stay in the database.

    Raises:
        BadRequestError: `after` is not an id.
    """
    query = select(Job).where(Job.user_id == user_id)
    query = query.options(defer(Job.result), defer(Job.log))
    if status is not None:
        query = query.where(Job.status == status)
    if kind is not None:
        query = query.where(Job.kind == kind)
    return await fetch_page(session, query, Job.id, after=after, limit=limit, latest_first=True)


async def webhooks_of(session: AsyncSession, job_ids: Sequence[str]) -> Mapping[str, Webhook]:
    """The webhooks of jobs, by the job."""
    if not job_ids:
        return {}
    rows = await session.scalars(select(Webhook).where(Webhook.job_id.in_(job_ids)))
    return {row.job_id: row for row in rows}


async def cancel_job(session: AsyncSession, job: Job, *, now: datetime) -> None:
    """End `job`, which waits or runs: who runs it has no lease any more."""
    job.status, job.finished_at = "cancelled", now
    job.lease = job.leased_until = None
    await session.flush()
    await announce(session, job.id, now=now)


async def hurry_job(session: AsyncSession, job_id: str, *, now: datetime) -> None:
    """Let a job begin now that waits for a later moment."""
    later = (Job.id == job_id, Job.status == "queued", Job.due_at > now)
    await session.execute(update(Job).where(*later).values(due_at=now))


async def delete_job(session: AsyncSession, job: Job) -> None:
    """Delete `job`, and its webhook with it."""
    await session.delete(job)
    await session.flush()


async def delete_jobs(session: AsyncSession, *, before: datetime, limit: int) -> int:
    """Delete the oldest jobs that were made before that moment and have ended, `limit` at most.

    Returns:
        How many there were.
    """
    oldest = (
        select(Job.id)
        .where(Job.id < first_id(before), Job.status.in_(ENDED))
        .order_by(Job.id)
        .limit(limit)
    )
    gone = await session.scalars(delete(Job).where(Job.id.in_(oldest)).returning(Job.id))
    return len(gone.all())
