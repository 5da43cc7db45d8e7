"""Logins: from a password or a key to tokens, from tokens to newer ones, and out again."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.caller import NO_KEY, Caller
from galley.core.errors import AuthenticationError, PermissionDeniedError
from galley.core.security import hash_key, is_well_formed
from galley.db.refresh_tokens import (
    add_token,
    end_family,
    end_logins,
    find_login,
    find_token,
    made_at,
    make_room,
)
from galley.db.session import Sessions
from galley.db.tables import ApiKey, RefreshToken, User, new_id, utc_now
from galley.db.users import find_by_email, find_user
from galley.services.accounts import Accounts
from galley.services.passwords import Passwords
from galley.services.throttle import Throttle
from galley.services.tokens import Tokens

log = structlog.get_logger(__name__)

MOST_PER_ADDRESS = 5
MOST_PER_CLIENT = 20
"""More than per address: many may come from behind one router."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """Tokens just made; times in seconds. Neither is kept anywhere but by the caller."""

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int


class Logins:
    """Gives tokens to users, and takes them back.

    Args:
        lifetime: how long a login lasts that is not used.
        clock: tells the time.
    """

    def __init__(
        self,
        sessions: Sessions,
        accounts: Accounts,
        tokens: Tokens,
        passwords: Passwords,
        *,
        lifetime: timedelta,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._tokens = tokens
        self._passwords = passwords
        self._lifetime = lifetime
        self._clock = clock
        seconds = lambda: clock().timestamp()  # noqa: E731 - the throttle counts in seconds
        self._by_address = Throttle(MOST_PER_ADDRESS, clock=seconds)
        self._by_client = Throttle(MOST_PER_CLIENT, clock=seconds)

    async def by_password(self, email: str, password: str, *, client: str) -> TokenPair:
        """Log in with a password.

        Args:
            client: the network address that this comes from.
        Raises:
            AuthenticationError: no such user, another password, or they are disabled: no telling.
            RateLimitError: too many logins failed for this address, or from this client.
        """
        async with self._sessions() as session:
            user = await find_by_email(session, email)
        stored = user.password_hash if user is not None else None
        await self._check(email.lower(), password, stored, client)
        if user is not None:
            async with self._sessions.begin() as session:
                found = await find_user(session, user.id, change=True)
                if found is not None and (found.status, found.password_hash) == ("active", stored):
                    return await self._start(session, found.id, None)
        raise _wrong_password()

    async def by_key(self, key: str) -> TokenPair:
        """Log in with an API key, to do what it may do.

        Raises:
            AuthenticationError: it opens nothing.
        """
        if not is_well_formed(key):
            raise AuthenticationError("Invalid API key", code="invalid_api_key")
        caller = await self._accounts.authenticate(key)
        async with self._sessions.begin() as session:
            await find_user(session, caller.user_id, change=True)
            return await self._start(session, caller.user_id, caller.key_id)

    async def refresh(self, refresh_token: str) -> TokenPair:
        """Exchange a refresh token for new tokens; it is good once.

        Raises:
            AuthenticationError: it is not good, or was used before, which ends its login.
        """
        async with self._sessions.begin() as session:
            token = await self._hold(session, refresh_token)
            pair = await self._rotate(session, token) if token is not None else None
        if token is not None and pair is None:
            self._accounts.forget(token.user_id)
        if pair is None:
            raise _invalid_refresh_token()
        return pair

    async def end(self, refresh_token: str) -> None:
        """Log out: the tokens of this login are good no more. An unknown one ends nothing."""
        async with self._sessions.begin() as session:
            token = await self._hold(session, refresh_token)
            if token is not None:
                await end_family(session, token.family, now=self._clock())
        if token is not None:
            self._accounts.forget(token.user_id)

    async def change_password(
        self, caller: Caller, *, old: str | None, new: str, client: str
    ) -> None:
        """Set the caller's own password, and log them out everywhere; keys stay.

        Raises:
            AuthenticationError: `old` is not their password.
            PermissionDeniedError: they have none, and came with a key that may less than they.
            RateLimitError: too many attempts failed.
        """
        async with self._sessions() as session:
            user = await session.get_one(User, caller.user_id)
            key = None if caller.key_id == NO_KEY else await session.get(ApiKey, caller.key_id)
        if user.password_hash is not None:
            if old is None:
                raise AuthenticationError(
                    "You have a password: send it too, as `old_password`", code="wrong_password"
                )
            await self._check(user.email, old, user.password_hash, client)
        elif key is not None and (key.scopes is not None or key.limits or key.expires_at):
            raise PermissionDeniedError(
                "A first password takes a key without scopes, limits or an end of its own.",
                code="restricted_key",
            )
        made = await self._passwords.hash(new)
        async with self._sessions.begin() as session:
            found = await find_user(session, user.id, change=True)
            if found is None or found.password_hash != user.password_hash:
                raise _wrong_password()  # somebody was faster
            now = self._clock()
            found.password_hash, found.tokens_from = made, now
            await end_logins(session, user.id, now=now)
        self._accounts.forget(user.id)

    async def _check(self, email: str, password: str, stored: str | None, client: str) -> None:
        self._by_client.attempt(client)
        self._by_address.attempt(email)
        if not await self._passwords.verify(password, stored):
            log.info("login_failed", client=client)
            raise _wrong_password()
        self._by_client.take_back(client)
        self._by_address.forgive(email)

    async def _hold(self, session: AsyncSession, refresh_token: str) -> RefreshToken | None:
        """Find a token, and keep others from using it until the transaction ends."""
        token = await find_token(session, hash_key(refresh_token))
        if token is not None:
            await find_user(session, token.user_id, change=True)
            await session.refresh(token)
        return token

    async def _rotate(self, session: AsyncSession, token: RefreshToken) -> TokenPair | None:
        """Put a new token in the place of `token`; None when that is not to be, and ends it all."""
        now = self._clock()
        login = await find_login(session, family=token.family, user_id=token.user_id, now=now)
        stale = login is None or made_at(token) < _to_milliseconds(login.user.tokens_from)
        if stale or token.used_at is not None or token.expires_at <= now:
            if login is not None and token.used_at is not None:
                log.warning("refresh_token_used_again", user_id=token.user_id)
            await end_family(session, token.family, now=now)
            return None
        token.used_at = now
        return await self._issue(session, token.user_id, token.key_id, token.family)

    async def _start(self, session: AsyncSession, user_id: str, key_id: str | None) -> TokenPair:
        await make_room(session, user_id, now=self._clock())
        return await self._issue(session, user_id, key_id, new_id())

    async def _issue(
        self, session: AsyncSession, user_id: str, key_id: str | None, family: str
    ) -> TokenPair:
        now = self._clock()
        refresh_token = f"gr_{secrets.token_urlsafe(32)}"
        await add_token(
            session,
            user_id=user_id,
            family=family,
            key_id=key_id,
            token_hash=hash_key(refresh_token),
            expires_at=now + self._lifetime,
        )
        return TokenPair(
            access_token=self._tokens.make(user_id=user_id, family=family, now=now),
            expires_in=int(self._tokens.lifetime.total_seconds()),
            refresh_token=refresh_token,
            refresh_expires_in=int(self._lifetime.total_seconds()),
        )


def _to_milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _wrong_password() -> AuthenticationError:
    return AuthenticationError("Wrong address or password", code="wrong_password")


def _invalid_refresh_token() -> AuthenticationError:
    return AuthenticationError(
        "Invalid refresh token. Log in again with `POST /v1/auth/token`.",
        code="invalid_refresh_token",
    )
