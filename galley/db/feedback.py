"""Queries on `feedback`."""

from datetime import datetime

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

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
