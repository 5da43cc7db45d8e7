"""Queries on `webhooks`."""

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.work_tables import Job, Webhook


async def add_webhook(session: AsyncSession, webhook: Webhook) -> None:
    """Add the webhook of a job that has not ended."""
    session.add(webhook)
    await session.flush()


async def announce(session: AsyncSession, job_id: str, *, now: datetime) -> None:
    """A job has ended: its webhook, where it has one, is due."""
    statement = update(Webhook).where(Webhook.job_id == job_id).values(due_at=now)
    await session.execute(statement)


async def claim_webhook(
    session: AsyncSession, *, now: datetime, until: datetime
) -> tuple[Webhook, Job] | None:
    """Take a webhook that is due, and count the attempt; for others it is due again at `until`."""
    due = (
        select(Webhook.job_id)
        .where(Webhook.due_at <= now)
        .order_by(Webhook.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Webhook)
        .where(Webhook.job_id == due.scalar_subquery())
        .values(due_at=until, attempts=Webhook.attempts + 1)
        .returning(Webhook)
    )
    webhook = await session.scalar(statement)
    return None if webhook is None else (webhook, await session.get_one(Job, webhook.job_id))


async def settle_webhook(
    session: AsyncSession,
    job_id: str,
    *,
    delivered_at: datetime | None = None,
    error: str | None = None,
    due_at: datetime | None = None,
) -> None:
    """Write down what an attempt came to, and when the next one is due, if there is to be one."""
    values = {"delivered_at": delivered_at, "error": error, "due_at": due_at}
    await session.execute(update(Webhook).where(Webhook.job_id == job_id).values(values))


async def next_webhook(session: AsyncSession) -> datetime | None:
    """When the next webhook is due."""
    return await session.scalar(select(func.min(Webhook.due_at)))
