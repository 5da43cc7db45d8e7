"""Queries on `refresh_tokens`: a login is a family of them, of which one is unused.

What changes a family holds its user's row meanwhile (`users.lock_user`), so that a login that
ends does not miss a token that is just being made.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import uuid_utils
from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.tables import ApiKey, RefreshToken, Tier, User, parse_id

MOST_KEPT = 1_000
"""Tokens of one user, used ones too; the oldest make room."""


class Login(NamedTuple):
    """A login that stands, and the key that it was made with, if it was one."""

    user: User
    tier: Tier
    key: ApiKey | None


async def add_token(
    session: AsyncSession,
    *,
    user_id: str,
    family: str,
    key_id: str | None,
    token_hash: bytes,
    expires_at: datetime,
) -> None:
    """Add the unused token of a family."""
    row = RefreshToken(
        user_id=user_id, family=family, key_id=key_id, hash=token_hash, expires_at=expires_at
    )
    session.add(row)
    await session.flush()


async def find_token(session: AsyncSession, token_hash: bytes) -> RefreshToken | None:
    """The token, used or not."""
    return await session.scalar(select(RefreshToken).where(RefreshToken.hash == token_hash))


async def find_login(
    session: AsyncSession, *, family: str, user_id: str, now: datetime
) -> Login | None:
    """Who is logged in; None when it ended, or its user or its key may not come in any more."""
    query = (
        select(User, Tier, ApiKey)
        .join(RefreshToken, RefreshToken.user_id == User.id)
        .join(Tier, Tier.name == User.tier)
        .outerjoin(ApiKey, ApiKey.id == RefreshToken.key_id)
        .where(
            RefreshToken.family == parse_id(family),
            RefreshToken.used_at.is_(None),
            RefreshToken.expires_at > now,
            User.id == parse_id(user_id),
            User.status == "active",
            or_(
                RefreshToken.key_id.is_(None),
                and_(
                    ApiKey.revoked_at.is_(None),
                    or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now),
                ),
            ),
        )
    )
    found = (await session.execute(query)).one_or_none()
    return Login(found[0], found[1], found[2]) if found else None


async def end_family(session: AsyncSession, family: str, *, now: datetime) -> None:
    """End one login."""
    await _end(session, RefreshToken.family == family, now)


async def end_logins(session: AsyncSession, user_id: str, *, now: datetime) -> None:
    """End every login of a user."""
    await _end(session, RefreshToken.user_id == user_id, now)


async def make_room(session: AsyncSession, user_id: str, *, now: datetime) -> None:
    """Delete what a user has no use for any more: expired tokens, and the oldest of very many."""
    newest_first = (
        select(RefreshToken.id)
        .where(RefreshToken.user_id == user_id)
        .order_by(RefreshToken.id.desc())
        .offset(MOST_KEPT - 1)
    )
    await session.execute(
        delete(RefreshToken).where(
            RefreshToken.user_id == user_id,
            or_(RefreshToken.expires_at <= now, RefreshToken.id.in_(newest_first)),
        )
    )


def made_at(token: RefreshToken) -> datetime:
    """When `token` was made, to the millisecond: its id says so."""
    return datetime.fromtimestamp(uuid_utils.UUID(token.id).timestamp / 1000, UTC)


async def _end(session: AsyncSession, which: ColumnElement[bool], now: datetime) -> None:
    await session.execute(
        update(RefreshToken).where(which, RefreshToken.used_at.is_(None)).values(used_at=now)
    )
