"""Queries on `api_requests`; the ledger writes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.cursors import Page, fetch_page, read_cursor
from galley.db.tables import OPEN, ApiRequest, State, parse_id

SEARCHED = 5_000
"""Requests that a page looks through for those that are wanted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests are asked for; None is any."""

    state: State | None = None
    model: str | None = None
    endpoint: str | None = None
    key_id: str | None = None


async def find_request(
    session: AsyncSession, *, user_id: str | None, request_id: str
) -> ApiRequest | None:
    """One request of `user_id`; None when it is someone else's, or nobody's.

    Args:
        user_id: None is anybody; for admins.
    """
    if (known := parse_id(request_id)) is None:
        return None
    query = select(ApiRequest).where(ApiRequest.request_id == known)
    if user_id is not None:
        query = query.where(ApiRequest.user_id == user_id)
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

    Of those that are wanted there may be few among many: no page looks through more than
    `SEARCHED` requests, so it may be short, or empty, and still have more after it.

    Args:
        wanted: leave out others; `model` is the one that answered.
        after: only those older than this request: where the page before says to go on.
    Raises:
        BadRequestError: `after` is not an id.
    """
    query, oldest = select(ApiRequest).where(ApiRequest.user_id == user_id), None
    if filters := _filters(wanted or Wanted()):
        query = query.where(*filters)
        oldest = await _oldest_searched(session, user_id, after)
    if oldest is not None:
        query = query.where(ApiRequest.request_id >= oldest)
    page = await fetch_page(
        session, query, ApiRequest.request_id, after=after, limit=limit, latest_first=True
    )
    return page if oldest is None or page.has_more else Page(page.rows, has_more=True, after=oldest)


def _filters(wanted: Wanted) -> list[ColumnElement[bool]]:
    key_id = wanted.key_id and parse_id(wanted.key_id)
    asked = (
        (wanted.state, ApiRequest.state == wanted.state),
        (wanted.model, ApiRequest.served_model == wanted.model),
        (wanted.endpoint, ApiRequest.endpoint == wanted.endpoint),
        (wanted.key_id, ApiRequest.key_id == key_id),
    )
    return [condition for value, condition in asked if value is not None]


async def _oldest_searched(session: AsyncSession, user_id: str, after: str | None) -> str | None:
    """The last request that a page looks at; None when it looks at all that are left."""
    query = select(ApiRequest.request_id).where(ApiRequest.user_id == user_id)
    if (known := read_cursor(after)) is not None:
        query = query.where(ApiRequest.request_id < known)
    query = query.order_by(ApiRequest.request_id.desc()).offset(SEARCHED - 1).limit(1)
    return await session.scalar(query)


async def interrupt_open(session: AsyncSession, *, but: Sequence[str]) -> int:
    """Mark open requests as interrupted, but for those of the instances that live.

    Returns:
        How many there were.
    """
    statement = (
        update(ApiRequest)
        .where(OPEN, ApiRequest.instance_id.not_in(but))
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
