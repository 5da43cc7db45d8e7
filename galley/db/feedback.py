"""Queries on `feedback`."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.requests import first_id
from galley.db.tables import Feedback


async def find_feedback(session: AsyncSession, request_id: str) -> Feedback | None:
    """What was said of a request last; None when nothing was."""
    return await session.get(Feedback, request_id)


async def put_feedback(
    session: AsyncSession, *, request_id: str, score: float, comment: str | None, now: datetime
) -> None:
    """Say it of a request, in the place of what was said before."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    said = {"score": score, "comment": comment, "created_at": now}
    statement = insert(Feedback).values(request_id=request_id, **said)
    await session.execute(
        statement.on_conflict_do_update(index_elements=[Feedback.request_id], set_=said)
    )


async def delete_feedback(session: AsyncSession, *, before: datetime, limit: int) -> int:
    """Delete what was said of the oldest requests from before that moment, `limit` at most.

    Returns:
        Of how many requests that was.
    """
    oldest = (
        select(Feedback.request_id)
        .where(Feedback.request_id < first_id(before))
        .order_by(Feedback.request_id)
        .limit(limit)
    )
    statement = delete(Feedback).where(Feedback.request_id.in_(oldest))
    gone = await session.scalars(statement.returning(Feedback.request_id))
    return len(gone.all())
