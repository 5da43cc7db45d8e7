"""Queries on `audit_events`."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.cursors import Page, fetch_page
from galley.db.tables import AuditEvent, parse_id


async def add_event(session: AsyncSession, event: AuditEvent) -> None:
    """Add `event`."""
    session.add(event)
    await session.flush()


async def list_events(
    session: AsyncSession,
    *,
    action: str | None = None,
    object: str | None = None,
    user_id: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> Page[AuditEvent]:
    """Events, the latest first; those of one kind, one object or one user where asked for.

    Raises:
        BadRequestError: `after` is not an id.
    """
    query = select(AuditEvent)
    if action is not None:
        query = query.where(AuditEvent.action == action)
    if object is not None:
        query = query.where(AuditEvent.object == object)
    if user_id is not None:
        query = query.where(AuditEvent.user_id == parse_id(user_id))
    return await fetch_page(
        session, query, AuditEvent.id, after=after, limit=limit, latest_first=True
    )
