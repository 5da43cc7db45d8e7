"""Queries on `responses`."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.requests import first_id
from galley.db.tables import StoredResponse


async def put_response(session: AsyncSession, response: StoredResponse) -> None:
    """Add `response`, or put it in the place of the one that has its id: it was asked again."""
    await session.merge(response)
    await session.flush()


async def find_body(session: AsyncSession, *, user_id: str, response_id: str) -> bytes | None:
    """The object of a response of `user_id`, as JSON; None when it is someone else's, or gone."""
    query = select(StoredResponse.body).where(
        StoredResponse.id == response_id, StoredResponse.user_id == user_id
    )
    return await session.scalar(query)


async def find_items(session: AsyncSession, *, user_id: str, response_id: str) -> bytes | None:
    """All that the model was told for a response of `user_id`, as JSON; None as `find_body`."""
    query = select(StoredResponse.items).where(
        StoredResponse.id == response_id, StoredResponse.user_id == user_id
    )
    return await session.scalar(query)


async def delete_response(session: AsyncSession, *, user_id: str, response_id: str) -> bool:
    """Delete a response of `user_id`; False when there is none."""
    statement = delete(StoredResponse).where(
        StoredResponse.id == response_id, StoredResponse.user_id == user_id
    )
    gone = await session.scalars(statement.returning(StoredResponse.id))
    return gone.one_or_none() is not None


async def delete_responses(session: AsyncSession, *, before: datetime, limit: int) -> int:
    """Delete the oldest responses from before that moment, `limit` at most.

    Returns:
        How many there were.
    """
    oldest = (
        select(StoredResponse.id)
        .where(StoredResponse.id < first_id(before))
        .order_by(StoredResponse.id)
        .limit(limit)
    )
    statement = delete(StoredResponse).where(StoredResponse.id.in_(oldest))
    gone = await session.scalars(statement.returning(StoredResponse.id))
    return len(gone.all())
