"""Lists in pages: ids are in order of time, so the last one of a page says where to go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from galley.core.errors import BadRequestError
from galley.db.tables import parse_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; `has_more` tells whether anything may come after it.

    Args:
        after: where the next page goes on, if not after the last row.
    """

    rows: Sequence[T]
    has_more: bool
    after: str | None = None


async def fetch_page(
    session: AsyncSession,
    query: Select[T],
    by: InstrumentedAttribute[str],
    *,
    after: str | None,
    limit: int,
    latest_first: bool = False,
) -> Page[T]:
    """Run `query` for one page, in the order of `by`.

    Args:
        after: the id of the last row of the page before.
    Raises:
        BadRequestError: `after` is not an id.
    """
    if (known := read_cursor(after)) is not None:
        query = query.where(by < known if latest_first else by > known)
    query = query.order_by(by.desc() if latest_first else by).limit(limit + 1)
    rows = (await session.scalars(query)).all()
    return Page(rows[:limit], len(rows) > limit)


def read_cursor(after: str | None, name: str = "after") -> str | None:
    """Return a cursor, the request's parameter `name`, as ids are stored.

    Raises:
        BadRequestError: it is not an id.
    """
    if after is None:
        return None
    if (known := parse_id(after)) is None:
        raise BadRequestError(f"{name} must be an id.", code="invalid_cursor", param=name)
    return known
