"""What the audit of the ledger reads: whole tables, in order of time, a part at a time."""

from collections.abc import AsyncGenerator, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Row, Select, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.record import AMOUNTS
from galley.db.requests import first_id
from galley.db.tables import ApiRequest, Price, UsageDaily, UsageHourly

PART = 2_000
"""Rows that are in memory at the same time."""

_SETTLED = ApiRequest.state.not_in(("open", "interrupted"))


async def hold_still(session: AsyncSession) -> None:
    """See the database as it is now for as long as the session lasts, whoever writes meanwhile."""
    if session.get_bind().dialect.name == "postgresql":  # on SQLite that is what reading does
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


async def count_settled(session: AsyncSession) -> int:
    """How many requests there are to look at."""
    return await session.scalar(select(func.count()).select_from(ApiRequest).where(_SETTLED)) or 0


async def all_prices(session: AsyncSession) -> dict[str, Price]:
    """Every version of every price, by id."""
    return {price.id: price for price in await session.scalars(select(Price))}


def settled_requests(
    session: AsyncSession, *, since: datetime | None
) -> AsyncGenerator[Sequence[Row[Any]]]:
    """Settled requests in the order of their ids, which is that of time."""
    query = select(*ApiRequest.__table__.c).where(_SETTLED).order_by(ApiRequest.request_id)
    if since is not None:
        query = query.where(
            ApiRequest.request_id >= first_id(since), ApiRequest.created_at >= since
        )
    return _parts(session, query)


def hourly_rows(session: AsyncSession) -> AsyncGenerator[Sequence[Row[Any]]]:
    """The hourly sums, hour by hour; `period` is the hour."""
    return _parts(session, _sums(UsageHourly, UsageHourly.hour, UsageHourly.key_id))


def daily_rows(session: AsyncSession) -> AsyncGenerator[Sequence[Row[Any]]]:
    """The daily sums, day by day; `period` is the day, and the key is empty."""
    return _parts(session, _sums(UsageDaily, UsageDaily.day, literal("")))


async def cost_by_month(session: AsyncSession, since: date) -> dict[tuple[str, date], int]:
    """What invoices come to, by user and first day of the month, for months from `since` on."""
    days = select(UsageDaily.user_id, UsageDaily.day, func.sum(UsageDaily.cost).label("cost"))
    query = days.where(UsageDaily.day >= since).group_by(UsageDaily.user_id, UsageDaily.day)
    found: dict[tuple[str, date], int] = {}
    async for part in _parts(session, query):
        for row in part:
            key = (row.user_id, row.day.replace(day=1))
            found[key] = found.get(key, 0) + int(row.cost)
    return found


def _sums(
    table: type[UsageHourly] | type[UsageDaily], period: Any, key_id: Any
) -> Select[*tuple[Any, ...]]:
    key = (table.user_id, key_id.label("key_id"), table.endpoint, table.served_model)
    amounts = (getattr(table, name) for name in AMOUNTS)
    return select(period.label("period"), *key, *amounts).order_by(period)


async def _parts(
    session: AsyncSession, query: Select[*tuple[Any, ...]]
) -> AsyncGenerator[Sequence[Row[Any]]]:
    found = await session.stream(query, execution_options={"yield_per": PART})
    async for part in found.partitions():
        yield part
