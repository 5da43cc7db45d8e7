"""Queries on `users`."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.tables import User


async def create_user(
    session: AsyncSession, *, email: str, name: str, tier: str = "free", is_admin: bool = False
) -> User:
    """Add a user.

    Raises:
        IntegrityError: someone has that address already, or there is no such tier.
    """
    user = User(email=email, name=name, tier=tier, is_admin=is_admin)
    session.add(user)
    await session.flush()
    return user


async def count_users(session: AsyncSession) -> int:
    """How many users there are."""
    return await session.scalar(select(func.count()).select_from(User)) or 0


async def first_admin(session: AsyncSession) -> User | None:
    """The admin who has been here longest."""
    query = select(User).where(User.is_admin).order_by(User.created_at, User.id).limit(1)
    return await session.scalar(query)
