"""Queries on `batches`."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.cursors import Page, fetch_page, read_cursor
from galley.db.requests import first_id
from galley.db.work_tables import Batch

ENDED = frozenset({"failed", "completed", "expired", "cancelled"})
"""From here on a batch does not change."""


async def add_batch(session: AsyncSession, batch: Batch) -> None:
    """Add `batch`.

    Raises:
        IntegrityError: it is there already.
    """
    session.add(batch)
    await session.flush()


async def find_batch(session: AsyncSession, *, user_id: str, batch_id: str) -> Batch | None:
    """A batch of `user_id`; None when it is someone else's, or nobody's."""
    query = select(Batch).where(Batch.id == batch_id, Batch.user_id == user_id)
    return await session.scalar(query)


async def list_batches(
    session: AsyncSession,
    *,
    user_id: str,
    endpoints: Collection[str],
    after: str | None,
    before: str | None = None,
    limit: int,
) -> Page[Batch]:
    """Batches of `user_id` that ask one of `endpoints`, the latest first.

    Args:
        before: the id of the first one of the page that follows; `after` does not matter then.
    Raises:
        BadRequestError: `after` or `before` is not an id.
    """
    query = select(Batch).where(Batch.user_id == user_id, Batch.endpoint.in_(endpoints))
    if before is None:
        return await fetch_page(
            session, query, Batch.id, after=after, limit=limit, latest_first=True
        )
    later = await fetch_page(
        session, query, Batch.id, after=read_cursor(before, "before"), limit=limit
    )
    return Page(later.rows[::-1], later.has_more)


async def has_ended(session: AsyncSession, batch_id: str) -> bool:
    """Tell whether a batch, whoever has it, has ended, or is gone since."""
    status = await session.scalar(select(Batch.status).where(Batch.id == batch_id))
    return status is None or status in ENDED


async def change_batch(
    session: AsyncSession, batch_id: str, of: Collection[str] = (), **values: Any
) -> bool:
    """Change a batch that has not ended, and has one of the statuses `of` where they are given.

    Returns:
        Whether there was anything to change.
    """
    statement = update(Batch).where(Batch.id == batch_id, Batch.status.not_in(ENDED))
    if of:
        statement = statement.where(Batch.status.in_(of))
    statement = statement.values(**values).returning(Batch.id)
    return (await session.scalars(statement)).one_or_none() is not None


async def delete_batch(session: AsyncSession, *, user_id: str, batch_id: str) -> None:
    """Delete a batch of `user_id` that has ended, if it is there."""
    await session.execute(
        delete(Batch).where(Batch.id == batch_id, Batch.user_id == user_id, Batch.status.in_(ENDED))
    )


async def delete_batches(session: AsyncSession, *, before: datetime, limit: int) -> int:
    """Delete the oldest batches that were made before that moment and have ended, `limit` at most.

    Returns:
        How many there were.
    """
    oldest = (
        select(Batch.id)
        .where(Batch.id < first_id(before), Batch.status.in_(ENDED))
        .order_by(Batch.id)
        .limit(limit)
    )
    gone = await session.scalars(delete(Batch).where(Batch.id.in_(oldest)).returning(Batch.id))
    return len(gone.all())
