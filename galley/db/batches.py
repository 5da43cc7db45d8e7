"""Queries on `batches`."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.cursors import Page, fetch_page
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
    session: AsyncSession, *, user_id: str, after: str | None, limit: int
) -> Page[Batch]:
    """Batches of `user_id`, the latest first.

    Raises:
        BadRequestError: `after` is not an id.
    """
    query = select(Batch).where(Batch.user_id == user_id)
    return await fetch_page(session, query, Batch.id, after=after, limit=limit, latest_first=True)


async def has_ended(session: AsyncSession, batch_id: str) -> bool:
    """Tell whether a batch, whoever has it, has ended."""
    status = await session.scalar(select(Batch.status).where(Batch.id == batch_id))
    return status in ENDED


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
