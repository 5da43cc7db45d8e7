"""Queries on `receipts`; the ledger writes them."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.requests import first_id
from galley.db.tables import Receipt


async def find_receipt(session: AsyncSession, request_id: str) -> bytes | None:
    """How a request came to what its row says, as JSON; None when that is gone."""
    return await session.scalar(select(Receipt.detail).where(Receipt.request_id == request_id))


async def delete_receipts(session: AsyncSession, *, before: datetime, limit: int) -> int:
    """Delete the oldest receipts from before that moment, `limit` at most.

    Returns:
        How many there were.
    """
    oldest = (
        select(Receipt.request_id)
        .where(Receipt.request_id < first_id(before))
        .order_by(Receipt.request_id)
        .limit(limit)
    )
    statement = delete(Receipt).where(Receipt.request_id.in_(oldest))
    gone = await session.scalars(statement.returning(Receipt.request_id))
    return len(gone.all())
