"""Queries on `users`."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.cursors import Page, fetch_page
from galley.db.tables import User, parse_id


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


async def first_admin(session: AsyncSession) -> User | None:
    """The admin who has been here longest; a disabled one only where there is no other."""
    query = select(User).where(User.is_admin).order_by(User.status, User.created_at, User.id)
    return await session.scalar(query.limit(1))


async def find_user(session: AsyncSession, user_id: str, *, change: bool = False) -> User | None:
    """The user of that id; with `change`, nobody else may change them until the end."""
    query = select(User).where(User.id == parse_id(user_id))
    return await session.scalar(query.with_for_update() if change else query)


async def find_by_email(session: AsyncSession, email: str) -> User | None:
    """The user of that address; addresses are stored in small letters."""
    return await session.scalar(select(User).where(User.email == email.lower()))


async def list_users(
    session: AsyncSession, *, email: str | None = None, after: str | None = None, limit: int = 100
) -> Page[User]:
    """Users, the oldest first; those whose address has `email` in it where asked for.

    Raises:
        BadRequestError: `after` is not an id.
    """
    query = select(User)
    if email is not None:
        query = query.where(func.lower(User.email).contains(email.lower(), autoescape=True))
    return await fetch_page(session, query, User.id, after=after, limit=limit)


async def lock_active_admins(session: AsyncSession) -> Sequence[User]:
    """Admins who are not disabled; nobody else may change them until the transaction ends."""
    query = select(User).where(User.is_admin, User.status == "active").order_by(User.id)
    return (await session.scalars(query.with_for_update())).all()
