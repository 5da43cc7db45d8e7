"""Queries on `files`; the bytes are where `services/files.py` puts them."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.cursors import Page, fetch_page
from galley.db.work_tables import File


async def put_file(session: AsyncSession, file: File) -> None:
    """Add `file`, or put it in the place of the one that has its id."""
    await session.merge(file)
    await session.flush()


async def find_file(
    session: AsyncSession, *, user_id: str, file_id: str, now: datetime
) -> File | None:
    """A file of `user_id`; None when it is someone else's, gone, or too old."""
    query = select(File).where(File.id == file_id, File.user_id == user_id, _is_there(now))
    return await session.scalar(query)


async def list_files(
    session: AsyncSession,
    *,
    user_id: str,
    purpose: str | None,
    after: str | None,
    limit: int,
    latest_first: bool,
    now: datetime,
) -> Page[File]:
    """Files of `user_id` in the order in which they came, for one purpose or for all.

    Args:
        after: the id of the last one of the page before.
    Raises:
        BadRequestError: `after` is not an id.
    """
    query = select(File).where(File.user_id == user_id, _is_there(now))
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    return await fetch_page(
        session, query, File.id, after=after, limit=limit, latest_first=latest_first
    )


async def kept(session: AsyncSession, user_id: str) -> tuple[int, int]:
    """How many files `user_id` has, and how many bytes these have together."""
    query = select(func.count(), func.coalesce(func.sum(File.size), 0)).where(
        File.user_id == user_id
    )
    count, size = (await session.execute(query)).one()
    return int(count), int(size)


async def delete_file(session: AsyncSession, *, user_id: str, file_id: str) -> bool:
    """Delete a file of `user_id`; False when there is none."""
    statement = delete(File).where(File.id == file_id, File.user_id == user_id)
    gone = await session.scalars(statement.returning(File.id))
    return gone.one_or_none() is not None


async def delete_expired(session: AsyncSession, *, now: datetime, limit: int) -> list[str]:
    """Delete files whose time is over, `limit` at most; return their ids."""
    old = select(File.id).where(File.expires_at <= now).limit(limit)
    gone = await session.scalars(delete(File).where(File.id.in_(old)).returning(File.id))
    return list(gone.all())


async def known_files(session: AsyncSession, ids: Collection[str]) -> set[str]:
    """Those of `ids` that are files, whoever has them."""
    return set((await session.scalars(select(File.id).where(File.id.in_(ids)))).all())


def _is_there(now: datetime) -> ColumnElement[bool]:
    return or_(File.expires_at.is_(None), File.expires_at > now)
