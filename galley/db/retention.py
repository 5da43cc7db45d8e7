"""What is deleted when it is old, and from when on nothing is missing."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.requests import first_id
from galley.db.tables import ApiRequest, Feedback, Receipt, Retention


async def whole_from(session: AsyncSession) -> datetime | None:
    """From which hour on every request is there; None when none was ever deleted."""
    return await session.scalar(select(Retention.whole_from))


async def mark_whole_from(session: AsyncSession, hour: datetime) -> None:
    """Say that requests from before `hour` may be missing from now on."""
    known = await session.get(Retention, 1, with_for_update=True)
    if known is None:
        session.add(Retention(whole_from=hour))
    elif known.whole_from < hour:
        known.whole_from = hour
    await session.flush()


async def delete_requests(session: AsyncSession, *, before: datetime, limit: int) -> int:
    """Delete the oldest requests that came before that moment, `limit` at most.

    Receipts and feedback go with them. Those that are open stay: somebody may still settle them.

    Returns:
        How many there were.
    """
    oldest = (
        select(ApiRequest.request_id)
        .where(
            ApiRequest.request_id < first_id(before),
            ApiRequest.created_at < before,
            ApiRequest.state != "open",
        )
        .order_by(ApiRequest.request_id)
        .limit(limit)
    )
    statement = delete(ApiRequest).where(ApiRequest.request_id.in_(oldest))
    gone = (await session.scalars(statement.returning(ApiRequest.request_id))).all()
    for table in (Receipt, Feedback):
        await session.execute(delete(table).where(table.request_id.in_(gone)))
    return len(gone)
