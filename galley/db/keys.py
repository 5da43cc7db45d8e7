"""Queries on `api_keys`."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.security import hash_key
from galley.db.tables import ApiKey, Tier, User, parse_id, utc_now


async def create_key(session: AsyncSession, *, user_id: str, name: str, key: str) -> ApiKey:
    """Add `key`, of which only the hash and a few characters are kept.

    Raises:
        IntegrityError: the key is known already.
    """
    row = ApiKey(user_id=user_id, name=name, hash=hash_key(key), prefix=key[:7], last_four=key[-4:])
    session.add(row)
    await session.flush()
    return row


async def list_keys(session: AsyncSession, *, user_id: str) -> Sequence[ApiKey]:
    """All keys of `user_id`, revoked ones too, the oldest first."""
    query = select(ApiKey).where(ApiKey.user_id == user_id).order_by(ApiKey.created_at)
    return (await session.scalars(query)).all()


async def is_known(session: AsyncSession, key_hash: bytes) -> bool:
    """Whether there is or was such a key."""
    return bool(await session.scalar(select(exists().where(ApiKey.hash == key_hash))))


async def find_holder(
    session: AsyncSession, key_hash: bytes, *, now: datetime
) -> tuple[ApiKey, User, Tier] | None:
    """Who holds the key; None when it is unknown, revoked or expired, or its user disabled."""
    query = (
        select(ApiKey, User, Tier)
        .join(User, User.id == ApiKey.user_id)
        .join(Tier, Tier.name == User.tier)
        .where(
            ApiKey.hash == key_hash,
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now),
            User.status == "active",
        )
    )
    found = (await session.execute(query)).one_or_none()
    return (found[0], found[1], found[2]) if found else None


async def revoke_key(
    session: AsyncSession, *, user_id: str, key_id: str, now: datetime | None = None
) -> bool:
    """Revoke a key of `user_id`; False when that user has no such key that still opens."""
    statement = (
        update(ApiKey)
        .where(
            ApiKey.id == parse_id(key_id), ApiKey.user_id == user_id, ApiKey.revoked_at.is_(None)
        )
        .values(revoked_at=now or utc_now())
        .returning(ApiKey.id)
    )
    return await session.scalar(statement) is not None
