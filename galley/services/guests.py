"""Users who come with the token of another issuer."""

from datetime import UTC, datetime
from typing import NamedTuple

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.errors import AuthenticationError
from galley.db.session import Sessions
from galley.db.tables import Tier, User, utc_now
from galley.db.users import create_user, find_by_email, find_user
from galley.services.issuers import Guest, Issuers
from galley.services.tokens import invalid_token

log = structlog.get_logger(__name__)


class Admitted(NamedTuple):
    """A user who came with a good token, which expires at that time, in Unix seconds.

    Args:
        moved: whether they were in another tier until now.
    """

    user: User
    tier: Tier
    expires_at: float
    moved: bool


class Guests:
    """Finds the user behind a foreign token by their address, and makes or moves them.

    What a token says changes the user's row, by the operator's mapping; what the user may do is
    read from there, as for everybody.
    """

    def __init__(self, sessions: Sessions, issuers: Issuers) -> None:
        self._sessions = sessions
        self._issuers = issuers

    def know(self, token: str) -> bool:
        """Tell whether `token` claims to come from an issuer that was set.

        Raises:
            AuthenticationError: it is no token.
        """
        return self._issuers.know(token)

    async def admit(self, token: str) -> Admitted:
        """Tell whose token this is.

        Raises:
            AuthenticationError: it is no good token, or its owner is no user here.
            OverloadedError: the issuer's keys cannot be fetched.
        """
        guest = await self._issuers.verify(token, now=utc_now())
        async with self._sessions() as session:
            user = await find_by_email(session, guest.email)
            tier = await session.get(Tier, user.tier if user else "free")
            was = user.tier if user else None
            moves = user is None or guest.tier not in (None, user.tier)
        if moves:
            user, tier = await self._update(guest)
        if user is None or tier is None or user.status != "active":
            raise _no_user()
        if guest.issued_at < user.tokens_from.timestamp():
            raise invalid_token()
        return Admitted(user, tier, guest.expires_at, moved=was not in (None, tier.name))

    async def _update(self, guest: Guest) -> tuple[User, Tier]:
        try:
            async with self._sessions.begin() as session:
                return await _keep(session, guest)
        except IntegrityError:  # a second request of theirs was first
            async with self._sessions.begin() as session:
                return await _keep(session, guest)


async def _keep(session: AsyncSession, guest: Guest) -> tuple[User, Tier]:
    """Write down who `guest` is.

    Raises:
        AuthenticationError: they are nobody, and may not join.
        IntegrityError: somebody else is just writing it down.
    """
    user = await find_by_email(session, guest.email)
    if user is None:
        if not guest.may_join:
            raise _no_user()
        user = await create_user(session, email=guest.email, name=guest.name or guest.email)
        user.tokens_from = datetime.fromtimestamp(0, UTC)  # theirs are older than the user
        log.info("user_joined", user_id=user.id)
    user = await find_user(session, user.id, change=True) or user
    tier = await _tier(session, guest, user)
    user.tier = tier.name
    return user, tier


async def _tier(session: AsyncSession, guest: Guest, user: User) -> Tier:
    found = await session.get(Tier, guest.tier or user.tier)
    if found is None:
        log.error("issuer_names_no_tier", tier=guest.tier, user_id=user.id)
        return await session.get_one(Tier, user.tier)
    return found


def _no_user() -> AuthenticationError:
    return AuthenticationError("The owner of this token is no user here.", code="unknown_user")
