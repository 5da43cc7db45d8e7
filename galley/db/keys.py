"""Queries on `api_keys`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.caller import NO_KEY
from galley.core.security import hash_key
from galley.db.cursors import Page, fetch_page
from galley.db.tables import ApiKey, Tier, UsageHourly, User, parse_id

Holder = tuple[ApiKey, User, Tier]


async def create_key(
    session: AsyncSession, *, user_id: str, name: str, key: str, **fields: Any
) -> ApiKey:
    """Add `key`, of which only the hash and a few characters are kept.

    Args:
        fields: what else the row says: `scopes`, `limits`, `expires_at`.
    Raises:
        IntegrityError: the key is known already.
    """
    ends = {"prefix": key[:7], "last_four": key[-4:]}
    row = ApiKey(user_id=user_id, name=name, hash=hash_key(key), **ends, **fields)
    session.add(row)
    await session.flush()
    return row


async def list_keys(
    session: AsyncSession, *, user_id: str, after: str | None = None, limit: int = 100
) -> Page[ApiKey]:
    """Keys of `user_id`, revoked ones too, the oldest first.

    Raises:
        BadRequestError: `after` is not an id.
    """
    query = select(ApiKey).where(ApiKey.user_id == user_id)
    return await fetch_page(session, query, ApiKey.id, after=after, limit=limit)


async def find_key(
    session: AsyncSession, *, user_id: str, key_id: str, change: bool = False
) -> ApiKey | None:
    """A key of `user_id`; with `change`, nobody else may change it until the end."""
    query = select(ApiKey).where(ApiKey.id == parse_id(key_id), ApiKey.user_id == user_id)
    return await session.scalar(query.with_for_update() if change else query)


async def count_open_keys(session: AsyncSession, *, user_id: str, now: datetime) -> int:
    """How many keys of `user_id` still open."""
    query = select(func.count()).select_from(ApiKey).where(ApiKey.user_id == user_id, *_open(now))
    return await session.scalar(query) or 0


async def last_used(
    session: AsyncSession, *, user_id: str, key_ids: Sequence[str]
) -> dict[str, datetime]:
    """The hour in which each key last came with a request; without those that never did."""
    query = (
        select(UsageHourly.key_id, func.max(UsageHourly.hour))
        .where(UsageHourly.user_id == user_id, UsageHourly.key_id.in_(key_ids))
        .group_by(UsageHourly.key_id)
    )
    rows = (await session.execute(query)).all()
    return {row[0]: row[1] for row in rows}


async def is_known(session: AsyncSession, key_hash: bytes) -> bool:
    """Whether there is or was such a key."""
    return bool(await session.scalar(select(exists().where(ApiKey.hash == key_hash))))


async def find_holders(
    session: AsyncSession, key_hashes: Sequence[bytes], *, now: datetime
) -> dict[bytes, Holder]:
    """Who holds the keys, by hash; without those that are unknown, revoked or expired.

    Nor is anybody found whose account is disabled.
    """
    query = (
        select(ApiKey, User, Tier)
        .join(User, User.id == ApiKey.user_id)
        .join(Tier, Tier.name == User.tier)
        .where(ApiKey.hash.in_(key_hashes), *_open(now), User.status == "active")
    )
    found = (await session.execute(query)).all()
    return {key.hash: (key, user, tier) for key, user, tier in found}


async def find_owner(
    session: AsyncSession, *, user_id: str, key_id: str, now: datetime
) -> tuple[ApiKey | None, User, Tier] | None:
    """A user and the key they once came with (`NO_KEY` for none); None when they may not now."""
    query = select(User, Tier).join(Tier, Tier.name == User.tier)
    query = query.where(User.id == user_id, User.status == "active")
    found, key = (await session.execute(query)).one_or_none(), None
    if key_id != NO_KEY:
        opening = select(ApiKey).where(ApiKey.id == key_id, ApiKey.user_id == user_id, *_open(now))
        if (key := await session.scalar(opening)) is None:
            return None
    return (key, found[0], found[1]) if found else None


def _open(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now)
