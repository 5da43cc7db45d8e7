"""Which servers live: each says so from time to time, by the clock of the database they share."""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.requests import interrupt_open
from galley.db.tables import Instance, UtcDateTime


async def beat(session: AsyncSession, *, instance_id: str) -> None:
    """Say that this server lives."""
    await session.merge(Instance(id=instance_id, seen_at=await _now(session)))
    await session.flush()


async def leave(session: AsyncSession, *, instance_id: str) -> None:
    """Say that this server stops."""
    await session.execute(delete(Instance).where(Instance.id == instance_id))


async def interrupt_dead(session: AsyncSession, *, silent: timedelta) -> int:
    """Mark what those left open as interrupted that have said nothing for so long.

    Returns:
        How many requests there were.
    """
    last = await _now(session) - silent
    await session.execute(delete(Instance).where(Instance.seen_at < last))
    alive = await session.scalars(select(Instance.id))
    return await interrupt_open(session, but=alive.all())


async def _now(session: AsyncSession) -> datetime:
    now = await session.scalar(select(type_coerce(func.now(), UtcDateTime)))
    assert now is not None  # noqa: S101 - a database tells the time
    return now
