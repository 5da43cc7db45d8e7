"""Who may come in: users and their API keys."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr

from galley.core.caller import ADMIN_SCOPES, NO_KEY, Caller
from galley.core.errors import AuthenticationError, NotFoundError
from galley.core.limits import Limits
from galley.core.security import hash_key, is_well_formed, make_key
from galley.core.settings import SettingsError
from galley.db.keys import create_key, find_holder, is_known, revoke_key
from galley.db.session import Sessions
from galley.db.tables import ApiKey, Tier, User, utc_now
from galley.db.users import create_user, first_admin

CACHE_SECONDS = 60.0
CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `key` is shown once and kept nowhere."""

    key_id: str
    key: str


class Accounts:
    """Knows callers by their keys, and remembers them for a minute.

    Args:
        clock: seconds, for the memory alone.
    """

    def __init__(self, sessions: Sessions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._clock = clock
        self._known: dict[bytes, tuple[float, Caller]] = {}
        self._revocations = 0

    async def bootstrap(self, bootstrap_key: SecretStr | None) -> str | None:
        """Make the first admin with a key, or let `bootstrap_key` open for the admin there is.

        Returns:
            The key that was made, to be shown once; None when nothing had to be made up.
        Raises:
            SettingsError: `bootstrap_key` does not look like a key of ours.
        """
        key = bootstrap_key.get_secret_value() if bootstrap_key is not None else None
        if key is not None and not is_well_formed(key):
            raise SettingsError(
                "GALLEY_BOOTSTRAP_KEY is not an API key (gk_ and 38 characters, the last six of "
                "them a checksum). Unset it, and the first start makes one."
            )
        async with self._sessions.begin() as session:
            admin, made = await first_admin(session), None
            if admin is None:
                admin = await create_user(
                    session, email="admin@localhost", name="Admin", tier="enterprise", is_admin=True
                )
                key = key or (made := make_key())
            if key is not None and not await is_known(session, hash_key(key)):
                await create_key(session, user_id=admin.id, name="bootstrap", key=key)
        return made

    def cached(self, key: str) -> Caller | None:
        """Recognise a key seen within the last minute, without waiting for anything."""
        found = self._known.get(hash_key(key))
        return found[1] if found is not None and self._clock() < found[0] else None

    async def authenticate(self, key: str) -> Caller:
        """Tell whose key this is.

        Raises:
            AuthenticationError: nobody's.
        """
        if caller := self.cached(key):
            return caller
        if not is_well_formed(key):
            raise _invalid_key()
        key_hash, revocations, now = hash_key(key), self._revocations, utc_now()
        async with self._sessions() as session:
            found = await find_holder(session, key_hash, now=now)
        if found is None:
            raise _invalid_key()
        row, user, tier = found
        caller = caller_of(user, tier, row)
        if revocations == self._revocations:  # else it may have been this key's, just now
            left = (row.expires_at - now).total_seconds() if row.expires_at else CACHE_SECONDS
            self._remember(key_hash, caller, min(left, CACHE_SECONDS))
        return caller

    async def create_key(self, *, user_id: str, name: str) -> NewKey:
        """Make a key for `user_id`."""
        key = make_key()
        async with self._sessions.begin() as session:
            row = await create_key(session, user_id=user_id, name=name, key=key)
        return NewKey(row.id, key)

    async def revoke(self, *, user_id: str, key_id: str) -> None:
        """Close a key of `user_id` at once.

        Raises:
            NotFoundError: this user has no such key that still opens.
        """
        async with self._sessions.begin() as session:
            revoked = await revoke_key(session, user_id=user_id, key_id=key_id)
        if not revoked:
            raise NotFoundError("There is no such key.", code="key_not_found")
        self.forget(user_id)

    def forget(self, user_id: str | None = None) -> None:
        """Look `user_id` up anew at their next request; without one, everybody."""
        self._revocations += 1
        self._known = {
            h: known for h, known in self._known.items() if user_id not in (None, known[1].user_id)
        }

    def _remember(self, key_hash: bytes, caller: Caller, seconds: float) -> None:
        self._known.pop(key_hash, None)
        if len(self._known) >= CACHE_SIZE:
            del self._known[next(iter(self._known))]  # the one that was asked for first
        self._known[key_hash] = (self._clock() + seconds, caller)


def caller_of(user: User, tier: Tier, key: ApiKey | None = None) -> Caller:
    """Say what a user may do, by `key` where they came with one.

    A user's limits replace the tier's one by one; a key's come on top, and count for it alone.
    """
    scopes = frozenset((*tier.scopes, *ADMIN_SCOPES)) if user.is_admin else frozenset(tier.scopes)
    subject = f"user:{user.id}"
    rules = Limits.model_validate(tier.limits | user.limits).rules(subject)
    if key is not None:
        scopes = scopes if key.scopes is None else scopes & frozenset(key.scopes)
        rules += Limits.model_validate(key.limits).rules(f"key:{key.id}")
    return Caller(
        user_id=user.id,
        key_id=key.id if key is not None else NO_KEY,
        tier=tier.name,
        scopes=scopes,
        models=None if tier.models is None else frozenset(tier.models),
        rules=rules,
        model_rules={
            model: Limits.model_validate(limits).rules(f"{subject}/model:{model}")
            for model, limits in tier.model_limits.items()
        },
    )


def _invalid_key() -> AuthenticationError:
    return AuthenticationError("Invalid API key", code="invalid_api_key")
