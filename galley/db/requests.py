"""Queries on `api_requests`; the ledger writes it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.cursors import Page, fetch_page
from galley.db.tables import OPEN, ApiRequest, State, parse_id


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests are asked for; None is any."""

    state: State | None = None
    model: str | None = None
    endpoint: str | None = None
    key_id: str | None = None


async def find_request(
    session: AsyncSession, *, user_id: str, request_id: str
) -> ApiRequest | None:
    """One request of `user_id`; None when it is someone else's, or nobody's."""
    if (known := parse_id(request_id)) is None:
        return None
    query = select(ApiRequest).where(ApiRequest.request_id == known, ApiRequest.user_id == user_id)
    return await session.scalar(query)


async def recent_requests(
    session: AsyncSession,
    *,
    user_id: str,
    wanted: Wanted | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Page[ApiRequest]:
    """Requests of `user_id`, the latest first.

    Args:
        wanted: leave out others; `model` is the one that answered.
        after: only those older than this request: the last one of the page before.
    Raises:
        BadRequestError: `after` is not an id.
    """
    wanted = wanted or Wanted()
    query = select(ApiRequest).where(ApiRequest.user_id == user_id)
    if wanted.state is not None:
        query = query.where(ApiRequest.state == wanted.state)
    if wanted.model is not None:
        query = query.where(ApiRequest.served_model == wanted.model)
    if wanted.endpoint is not None:
        query = query.where(ApiRequest.endpoint == wanted.endpoint)
    if wanted.key_id is not None:
        query = query.where(ApiRequest.key_id == parse_id(wanted.key_id))
    return await fetch_page(
        session, query, ApiRequest.request_id, after=after, limit=limit, latest_first=True
    )


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


def first_id(at: datetime) -> str:
    """Return the id before all that are made from `at` on.

    Source: RFC 9562, section 5.7: an id begins with its milliseconds.
    """
    moment = f"{int(at.timestamp() * 1000):012x}"
    return f"{moment[:8]}-{moment[8:]}-0000-0000-000000000000"
