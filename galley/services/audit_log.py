"""What admins did: who, what, and how it was before and after."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.caller import Caller
from galley.db.audit import add_event, list_events
from galley.db.session import Sessions
from galley.db.tables import AuditEvent
from galley.schemas.admin import AuditEventReply, AuditList


async def note(
    session: AsyncSession,
    caller: Caller,
    action: str,
    object: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """Write down what `caller` does, in the transaction that does it.

    Args:
        action: such as `user.update`.
        object: such as `user:0192...` or `tier:free`.
        before: plain JSON without secrets or hashes; None for what was not there.
        after: the same; None for what is gone.
    """
    event = AuditEvent(user_id=caller.user_id, key_id=caller.key_id, action=action, object=object)
    event.before, event.after = before, after
    await add_event(session, event)


class AuditLog:
    """Reads what `note` has written."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def list(
        self,
        *,
        action: str | None = None,
        object: str | None = None,
        user_id: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> AuditList:
        """List events, the latest first.

        Args:
            user_id: only what this user did.
            after: only what comes after this event in the list.
        Raises:
            BadRequestError: `after` is not an id.
        """
        async with self._sessions() as session:
            page = await list_events(
                session, action=action, object=object, user_id=user_id, after=after, limit=limit
            )
        return AuditList(data=[_reply(event) for event in page.rows], has_more=page.has_more)


def _reply(event: AuditEvent) -> AuditEventReply:
    return AuditEventReply(
        id=event.id, created_at=event.created_at, user_id=event.user_id, key_id=event.key_id,
        action=event.action, object=event.object, before=event.before, after=event.after,
    )  # fmt: skip
