"""Queries on `api_requests`; the ledger writes it."""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.errors import BadRequestError
from galley.db.tables import OPEN, ApiRequest, parse_id


async def find_request(
    session: AsyncSession, *, user_id: str, request_id: str
) -> ApiRequest | None:
    """One request of `user_id`; None when it is someone else's, or nobody's."""
    if (known := parse_id(request_id)) is None:
        return None
    query = select(ApiRequest).where(ApiRequest.request_id == known, ApiRequest.user_id == user_id)
    return await session.scalar(query)


async def recent_requests(
    session: AsyncSession, *, user_id: str, before: str | None = None, limit: int = 50
) -> Sequence[ApiRequest]:
    """Requests of `user_id`, latest first.

    Args:
        before: only those older than this request id: the last one of the page before.
    Raises:
        BadRequestError: `before` is not a request id.
    """
    query = select(ApiRequest).where(ApiRequest.user_id == user_id)
    if before is not None:
        if (known := parse_id(before)) is None:
            raise BadRequestError(
                "before must be a request id.", code="invalid_cursor", param="before"
            )
        query = query.where(ApiRequest.request_id < known)
    query = query.order_by(ApiRequest.request_id.desc()).limit(limit)
    return (await session.scalars(query)).all()


async def interrupt_open(session: AsyncSession, *, instance_id: str) -> int:
    """Mark what other instances left open as interrupted.

    Returns:
        How many there were.
    """
    statement = (
        update(ApiRequest)
        .where(OPEN, ApiRequest.instance_id != instance_id)
        .values(state="interrupted")
        .returning(ApiRequest.request_id)
    )
    return len((await session.scalars(statement)).all())
