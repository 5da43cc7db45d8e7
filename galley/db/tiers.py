"""Queries on `tiers`."""

from collections.abc import Sequence

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.tables import Tier, User


async def list_tiers(session: AsyncSession) -> Sequence[Tier]:
    """All tiers, by name."""
    return (await session.scalars(select(Tier).order_by(Tier.name))).all()


async def find_tier(
    session: AsyncSession, name: str, *, keep: bool = False, change: bool = False
) -> Tier | None:
    """The tier of that name.

    Args:
        keep: nobody may delete it until the transaction ends.
        change: nobody else may change it until then.
    """
    query = select(Tier).where(Tier.name == name)
    if keep or change:
        query = query.with_for_update(key_share=keep, read=keep)
    return await session.scalar(query)


async def is_used(session: AsyncSession, name: str) -> bool:
    """Whether anybody is in the tier."""
    return bool(await session.scalar(select(exists().where(User.tier == name))))
