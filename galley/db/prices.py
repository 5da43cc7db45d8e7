"""Queries on `prices`. Rows are added, never changed: what a request cost stays explained."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.cursors import Page, fetch_page
from galley.db.tables import Price


async def valid_prices(session: AsyncSession, *, now: datetime) -> Sequence[Price]:
    """Of each model the newest price that is valid, and those that are still to come.

    Returns:
        Rows in the order in which they become valid; of two at one moment the later made counts.
    """
    newest = (
        select(Price.model, func.max(Price.valid_from).label("valid_from"))
        .where(Price.valid_from <= now)
        .group_by(Price.model)
        .subquery()
    )
    query = (
        select(Price)
        .outerjoin(newest, newest.c.model == Price.model)
        .where(or_(Price.valid_from > now, Price.valid_from == newest.c.valid_from))
        .order_by(Price.model, Price.valid_from, Price.id)
    )
    return (await session.scalars(query)).all()


async def find_price(session: AsyncSession, price_id: str) -> Price | None:
    """The version with this id."""
    return await session.get(Price, price_id)


async def priced_models(session: AsyncSession) -> Collection[str]:
    """The models that have, had or will have a price."""
    return set(await session.scalars(select(Price.model).distinct()))


async def price_history(
    session: AsyncSession, *, model: str | None = None, after: str | None = None, limit: int
) -> Page[Price]:
    """Prices as they were set, the latest first; those of one model where asked for.

    Raises:
        BadRequestError: `after` is not an id.
    """
    query = select(Price)
    if model is not None:
        query = query.where(Price.model == model)
    return await fetch_page(session, query, Price.id, after=after, limit=limit, latest_first=True)


async def add_price(session: AsyncSession, **values: Any) -> Price:
    """Add a version; `values` are columns, and what is not named is 0."""
    price = Price(**values)
    session.add(price)
    await session.flush()
    return price
