"""Who may come in: users, by their API keys and their tokens."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr

from galley.core.caller import ADMIN_SCOPES, NO_KEY, Caller
from galley.core.errors import AuthenticationError
from galley.core.filters import FilterRule
from galley.core.limits import Counter, Limits, Rule
from galley.core.security import hash_key, is_well_formed, make_key
from galley.core.settings import SettingsError
from galley.db.claim import in_turn
from galley.db.keys import create_key, find_owner, is_known
from galley.db.refresh_tokens import find_login
from galley.db.session import Sessions
from galley.db.tables import ApiKey, Tier, User, utc_now
from galley.db.users import create_user, first_admin
from galley.services.guests import Guests
from galley.services.holders import Holders
from galley.services.tokens import Tokens, invalid_token, looks_like_token

CACHE_SECONDS = 60.0
CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `key` is shown once and kept nowhere."""

    key_id: str
    key: str


class Accounts:
    """Knows callers by their keys and tokens, and remembers them for a minute.

    Args:
        tokens: unset, none are accepted.
        guests: users who come with tokens of other issuers; unset, there are none.
        clock: seconds, for the memory alone.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        tokens: Tokens | None = None,
        guests: Guests | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._holders = Holders(sessions, clock)
        self._tokens = tokens
        self._guests = guests
        self._clock = clock
        self.tell: Callable[[str | None], None] | None = None
        """Tells the other servers whom to forget, where there are others."""
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
            await in_turn(session)
            admin, made = await first_admin(session), None
            if admin is None:
                admin = await create_user(
                    session, email="admin@localhost", name="Admin", tier="enterprise", is_admin=True
                )
                key = key or (made := make_key())
            if key is not None and not await is_known(session, hash_key(key)):
                await create_key(session, user_id=admin.id, name="bootstrap", key=key)
        self._holders.forget()
        return made

    def cached(self, credential: str) -> Caller | None:
        """Recognise a key or token seen within the last minute, without waiting for anything."""
        found = self._known.get(hash_key(credential))
        return found[1] if found is not None and self._clock() < found[0] else None

    async def authenticate(self, credential: str) -> Caller:
        """Tell whose key or token this is.

        Raises:
            AuthenticationError: nobody's.
            OverloadedError: it is a token, and its issuer's keys cannot be fetched.
        """
        if caller := self.cached(credential):
            return caller
        revocations = self._revocations
        is_token = looks_like_token(credential)
        caller, seconds = await (self._by_token if is_token else self._by_key)(credential)
        if revocations == self._revocations:  # else it may have been this one's, just now
            self._remember(hash_key(credential), caller, min(seconds, CACHE_SECONDS))
        return caller

    async def caller(self, user_id: str, key_id: str) -> Caller:
        """Tell what a user may do now, by the key they came with some time ago.

        Raises:
            AuthenticationError: the key is closed, or its user disabled.
        """
        async with self._sessions() as session:
            found = await find_owner(session, user_id=user_id, key_id=key_id, now=utc_now())
        if found is None:
            raise _invalid_key()
        key, user, tier = found
        return caller_of(user, tier, key)

    async def _by_key(self, key: str) -> tuple[Caller, float]:
        """Return who holds `key`, and how many seconds it is good."""
        if not is_well_formed(key):
            raise _invalid_key()
        if (found := await self._holders.find(hash_key(key))) is None:
            raise _invalid_key()
        row, user, tier = found
        return caller_of(user, tier, row), _seconds_left(row, utc_now())

    async def _by_token(self, token: str) -> tuple[Caller, float]:
        """Return whose `token` it is, and how many seconds it is good."""
        now = utc_now()
        if self._guests is not None and self._guests.know(token):
            guest = await self._guests.admit(token)
            if guest.moved:  # their keys were good for what the old tier may
                self.forget(guest.user.id)
            return caller_of(guest.user, guest.tier), guest.expires_at - now.timestamp()
        if self._tokens is None:
            raise invalid_token()
        claims = self._tokens.verify(token, now=now)
        async with self._sessions() as session:
            login = await find_login(session, family=claims.family, user_id=claims.user_id, now=now)
        if login is None or claims.issued_at < login.user.tokens_from.timestamp():
            raise invalid_token()
        seconds = min(claims.expires_at - now.timestamp(), _seconds_left(login.key, now))
        return caller_of(login.user, login.tier, login.key), seconds

    async def create_key(self, *, user_id: str, name: str) -> NewKey:
        """Make a key for `user_id`."""
        key = make_key()
        async with self._sessions.begin() as session:
            row = await create_key(session, user_id=user_id, name=name, key=key)
        return NewKey(row.id, key)

    def forget(self, user_id: str | None = None) -> None:
        """Look `user_id` up anew at their next request; without one, everybody."""
        self.drop(user_id)
        if self.tell is not None:
            self.tell(user_id)

    def drop(self, user_id: str | None) -> None:
        """The same in this server alone."""
        self._revocations += 1
        self._holders.forget()
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

    A user's limits replace the tier's one by one, and their credit is one more; a key's come on
    top, and count for it alone.
    """
    scopes = frozenset((*tier.scopes, *ADMIN_SCOPES)) if user.is_admin else frozenset(tier.scopes)
    subject = f"user:{user.id}"
    rules = Limits.model_validate(tier.limits | user.limits).rules(subject)
    own = Limits.model_validate(user.limits).rules(subject)
    if user.credit is not None:
        rules += (Rule(Counter(subject, "cost", "ever"), user.credit),)
    if key is not None:
        scopes = scopes if key.scopes is None else scopes & frozenset(key.scopes)
        rules += Limits.model_validate(key.limits).rules(f"{subject}/key:{key.id}")
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
        own=frozenset(rule.counter for rule in own),
        weight=tier.weight,
        filters=tuple(map(FilterRule.model_validate, tier.filters)),
    )


def _seconds_left(key: ApiKey | None, now: datetime) -> float:
    if key is None or key.expires_at is None:
        return CACHE_SECONDS
    return (key.expires_at - now).total_seconds()


def _invalid_key() -> AuthenticationError:
    return AuthenticationError("Invalid API key", code="invalid_api_key")
