"""Queries of those who do jobs: each run holds its job by a lease, and writes by no other right."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, nulls_first, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from galley.db.users import find_user
from galley.db.work_tables import Job

CANDIDATES = 16
"""Users whose turn it may be; more than one, as others may be faster."""


async def claim_job(
    session: AsyncSession, *, lease: str, now: datetime, until: datetime, most_running: int
) -> Job | None:
    """Take a job that is due, for `lease`: of who has the fewest running and waited longest.

    Args:
        most_running: jobs of one user that run at the same time.
    """
    for user_id in await _whose_turn(session, now=now, most_running=most_running):
        await find_user(session, user_id, change=True)  # so that nobody else counts now
        if await _count_running(session, user_id) >= most_running:
            continue
        query = (
            select(Job)
            .where(Job.status == "queued", Job.user_id == user_id, Job.due_at <= now)
            .order_by(Job.due_at, Job.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if (job := await session.scalar(query)) is not None:
            job.status, job.attempts, job.started_at = "running", job.attempts + 1, now
            job.lease, job.leased_until = lease, until
            await session.flush()
            return job
    return None


async def _whose_turn(session: AsyncSession, *, now: datetime, most_running: int) -> Sequence[str]:
    waiting = (
        select(Job.user_id).where(Job.status == "queued", Job.due_at <= now).distinct().subquery()
    )
    theirs = aliased(Job)
    running = (
        select(func.count())
        .select_from(theirs)
        .where(theirs.status == "running", theirs.user_id == waiting.c.user_id)
        .scalar_subquery()
    )
    last = (
        select(func.max(theirs.started_at))
        .where(theirs.user_id == waiting.c.user_id)
        .scalar_subquery()
    )
    query = (
        select(waiting.c.user_id)
        .where(running < most_running)
        .order_by(running, nulls_first(last.asc()), waiting.c.user_id)
        .limit(CANDIDATES)
    )
    return (await session.scalars(query)).all()


async def _count_running(session: AsyncSession, user_id: str) -> int:
    query = (
        select(func.count()).select_from(Job).where(Job.status == "running", Job.user_id == user_id)
    )
    return await session.scalar(query) or 0


async def renew_leases(
    session: AsyncSession, leases: Collection[str], *, until: datetime
) -> set[str]:
    """Hold jobs until then; return the leases that still hold."""
    statement = update(Job).where(Job.lease.in_(leases)).values(leased_until=until)
    return {lease for lease in await session.scalars(statement.returning(Job.lease)) if lease}


async def write_by_lease(session: AsyncSession, lease: str, values: Mapping[str, Any]) -> bool:
    """Change the job that `lease` holds; False when it holds none any more."""
    statement = update(Job).where(Job.lease == lease).values(dict(values)).returning(Job.id)
    return await session.scalar(statement) is not None


async def expired_jobs(
    session: AsyncSession, *, now: datetime | None, change: bool = False
) -> Sequence[Job]:
    """Some of the jobs whose lease has run out; without `now`, of all that are running.

    With `change`, those that nobody else changes just now; nobody may until the end.
    """
    query = select(Job).where(Job.status == "running")
    if now is not None:
        query = query.where(Job.leased_until <= now)
    query = query.order_by(Job.id).limit(100)
    if change:
        query = query.with_for_update(skip_locked=True)
    return (await session.scalars(query)).all()


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next job that waits may begin."""
    return await session.scalar(select(func.min(Job.due_at)).where(Job.status == "queued"))


async def waiting_jobs(session: AsyncSession, *, before: datetime, limit: int) -> Sequence[str]:
    """Some of the jobs that have waited since before that moment."""
    query = select(Job.id).where(Job.status == "queued", Job.due_at <= before).limit(limit)
    return (await session.scalars(query)).all()


async def count_by_status(session: AsyncSession) -> Mapping[str, int]:
    """How many jobs there are in each state."""
    rows = await session.execute(select(Job.status, func.count()).group_by(Job.status))
    return {row[0]: row[1] for row in rows}
