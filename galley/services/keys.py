"""API keys: made, changed, renewed and closed by their owner, or by an admin."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.caller import ADMIN_SCOPES, Caller
from galley.core.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
)
from galley.core.security import make_key
from galley.db.keys import count_open_keys, create_key, find_key, last_used, list_keys
from galley.db.session import Sessions
from galley.db.tables import ApiKey, User, utc_now
from galley.schemas.keys import KeyCreate, KeyList, KeyReply, KeyUpdate, NewKeyReply
from galley.services.accounts import Accounts
from galley.services.audit_log import note
from galley.services.people import find_known, find_to_change, scopes_of

MOST_OPEN = 100
"""Keys of one user that open at the same time."""

LONGEST = timedelta(days=3650)


class KeyService:
    """Looks after the keys of a user: the caller's own, or those of another for an admin.

    A key never makes one that may do more: it grants no scope that it lacks, and no later end than
    its own. Limits count for each key alone, so one that has some makes and changes none at all:
    a second key would be twice as much.
    """

    def __init__(self, sessions: Sessions, accounts: Accounts) -> None:
        self._sessions = sessions
        self._accounts = accounts

    async def list(self, user_id: str, *, after: str | None = None, limit: int = 100) -> KeyList:
        """List the keys of a user, revoked ones too, the oldest first.

        Raises:
            NotFoundError: there is no such user.
            BadRequestError: `after` is not an id.
        """
        async with self._sessions() as session:
            owner = await find_known(session, user_id)
            page = await list_keys(session, user_id=owner.id, after=after, limit=limit)
            return KeyList(data=await _replies(session, page.rows), has_more=page.has_more)

    async def find(self, user_id: str, key_id: str) -> KeyReply:
        """Describe a key.

        Raises:
            NotFoundError: this user has no such key.
        """
        async with self._sessions() as session:
            key = await find_key(session, user_id=user_id, key_id=key_id)
            return await _reply(session, _known(key))

    async def create(
        self, caller: Caller, user_id: str, request: KeyCreate, *, now: datetime | None = None
    ) -> NewKeyReply:
        """Make a key; this answer is the only place where it can be read.

        Raises:
            PermissionDeniedError: it would have a scope that the caller or its owner lacks, or the
                key that the caller came with has limits, or ends sooner.
            BadRequestError: it would end in the past, or not within ten years.
            ConflictError: too many keys are open.
            NotFoundError: there is no such user.
        """
        now = now or utc_now()
        async with self._sessions.begin() as session:
            owner = await find_to_change(session, caller, user_id)
            held = await scopes_of(session, owner)
            latest = await _latest_end(session, caller, owner)
            key, row = await _add(
                session, owner, now,
                name=request.name,
                scopes=_granted(caller, held, request.scopes),
                limits=request.limits.model_dump(exclude_none=True),
                expires_at=_end(request, now, latest),
            )  # fmt: skip
            await _note(session, caller, "key.create", row, None)
            reply = await _reply(session, row)
        return NewKeyReply(**dict(reply), key=key)

    async def update(self, caller: Caller, key_id: str, request: KeyUpdate) -> KeyReply:
        """Change what a key of the caller is called, or its ceilings.

        Raises:
            NotFoundError: they have no such key.
            PermissionDeniedError: the key that they came with has limits itself.
        """
        async with self._sessions.begin() as session:
            row = await _find(session, caller.user_id, key_id)
            row.name = request.name or row.name
            if request.limits is not None:
                _permit_limits(await _own_key(session, caller))
                row.limits = request.limits.model_dump(exclude_none=True)
            reply = await _reply(session, row)
        self._accounts.forget(caller.user_id)
        return reply

    async def rotate(
        self, caller: Caller, key_id: str, overlap: timedelta, *, now: datetime | None = None
    ) -> NewKeyReply:
        """Make a key like this one of the caller, which closes after `overlap`.

        Both last equally long, but never longer than the key that the caller came with; what the
        old one has left goes to nobody.

        Raises:
            NotFoundError: they have no such key that still opens.
            PermissionDeniedError: it has a scope that the caller came without, or the key that they
                came with has limits.
            ConflictError: too many keys are open.
        """
        now = now or utc_now()
        async with self._sessions.begin() as session:
            owner = await find_to_change(session, caller, caller.user_id)
            old = await _find_open(session, owner.id, key_id, now)
            held = await scopes_of(session, owner)
            _granted(caller, held, sorted(held if old.scopes is None else held & set(old.scopes)))
            end = await _latest_end(session, caller, owner)
            if old.expires_at is not None:
                full = now + (old.expires_at - old.created_at)
                end = full if end is None else min(full, end)
            old.expires_at = min(now + overlap, old.expires_at or now + overlap)
            key, row = await _add(
                session, owner, now,
                name=old.name, scopes=old.scopes, limits=old.limits, expires_at=end,
            )  # fmt: skip
            reply = await _reply(session, row)
        self._accounts.forget(owner.id)
        return NewKeyReply(**dict(reply), key=key)

    async def revoke(
        self, caller: Caller, user_id: str, key_id: str, *, now: datetime | None = None
    ) -> KeyReply:
        """Close a key of a user at once.

        Raises:
            NotFoundError: there is no such user, or they have no such key that still opens.
            PermissionDeniedError: it is an admin's, and the caller is less than one.
        """
        now = now or utc_now()
        async with self._sessions.begin() as session:
            owner = await find_to_change(session, caller, user_id)
            row = await _find_open(session, owner.id, key_id, now)
            before = _told(row)
            row.revoked_at = now
            await _note(session, caller, "key.revoke", row, before)
            reply = await _reply(session, row)
        self._accounts.forget(owner.id)
        return reply


async def _find(session: AsyncSession, user_id: str, key_id: str) -> ApiKey:
    return _known(await find_key(session, user_id=user_id, key_id=key_id, change=True))


async def _find_open(session: AsyncSession, user_id: str, key_id: str, now: datetime) -> ApiKey:
    row = await _find(session, user_id, key_id)
    expired = row.expires_at is not None and row.expires_at <= now
    return _known(None if expired or row.revoked_at is not None else row)


def _known(key: ApiKey | None) -> ApiKey:
    if key is None:
        raise NotFoundError("There is no such key, or it is closed.", code="key_not_found")
    return key


async def _add(
    session: AsyncSession, owner: User, now: datetime, **fields: Any
) -> tuple[str, ApiKey]:
    """Add a key, unless there are too many; `owner` is locked, so that nobody else counts now."""
    if await count_open_keys(session, user_id=owner.id, now=now) >= MOST_OPEN:
        raise ConflictError(
            f"{MOST_OPEN} keys are open already. Revoke one first.", code="too_many_keys"
        )
    key = make_key()
    return key, await create_key(session, user_id=owner.id, key=key, created_at=now, **fields)


def _granted(caller: Caller, held: frozenset[str], asked: Iterable[str] | None) -> list[str] | None:
    """Return the scopes of a new key; None is all that its owner has, now and later."""
    if asked is None:
        mine = sorted(scope for scope in held if caller.may(scope))
        if len(mine) == len(held):
            return None
        asked = mine
    wanted = sorted({name for s in asked for name in (ADMIN_SCOPES if s == "admin:*" else (s,))})
    for scope in wanted:
        _permit_grant(caller, held, scope)
    return wanted


def _permit_grant(caller: Caller, held: frozenset[str], scope: str) -> None:
    """Insist that both have `scope`: who gives it and who gets it."""
    if not caller.may(scope) or scope not in held:
        who = "you do not" if not caller.may(scope) else "its owner does not"
        raise PermissionDeniedError(
            f"A key cannot have the scope `{scope}`: {who} have it.", code="missing_scope"
        )


async def _own_key(session: AsyncSession, caller: Caller) -> ApiKey | None:
    """The key that the caller came with; None for who came with a password."""
    return await find_key(session, user_id=caller.user_id, key_id=caller.key_id)


def _permit_limits(own: ApiKey | None) -> None:
    if own is not None and own.limits:
        raise PermissionDeniedError(
            "This key has limits of its own, so it makes, renews and limits no keys. Use one"
            " without limits, or a password.",
            code="restricted_key",
        )


async def _latest_end(session: AsyncSession, caller: Caller, owner: User) -> datetime | None:
    """When a new key of `owner` must end; None is never. What an admin gives others is theirs."""
    if owner.id != caller.user_id:
        return None
    own = await _own_key(session, caller)
    _permit_limits(own)
    return None if own is None else own.expires_at


def _end(request: KeyCreate, now: datetime, latest: datetime | None) -> datetime | None:
    end = request.expires_at
    if request.expires_in_days is not None:
        end = now + timedelta(days=request.expires_in_days)
    elif end is not None and not now < end <= now + LONGEST:
        raise BadRequestError(
            "expires_at must lie ahead, and within ten years.",
            code="invalid_expiry",
            param="expires_at",
        )
    if end is None or latest is None:
        return end or latest
    if end > latest:
        raise PermissionDeniedError(
            f"This key ends at {latest:%Y-%m-%dT%H:%M:%SZ}, and makes none that opens for longer.",
            code="restricted_key",
        )
    return end


def _told(key: ApiKey) -> dict[str, Any]:
    """What the audit log keeps of a key."""
    end = key.expires_at.isoformat() if key.expires_at else None
    revoked = key.revoked_at.isoformat() if key.revoked_at else None
    shown = {
        name: getattr(key, name) for name in ("name", "prefix", "last_four", "scopes", "limits")
    }
    return shown | {"expires_at": end, "revoked_at": revoked}


async def _note(
    session: AsyncSession, caller: Caller, action: str, key: ApiKey, before: dict[str, Any] | None
) -> None:
    """Write down what an admin does with the key of another; one's own keys are one's own."""
    if key.user_id != caller.user_id:
        target = f"user:{key.user_id}/key:{key.id}"
        await note(session, caller, action, target, before, _told(key))


async def _reply(session: AsyncSession, key: ApiKey) -> KeyReply:
    return (await _replies(session, [key]))[0]


async def _replies(session: AsyncSession, keys: Sequence[ApiKey]) -> list[KeyReply]:
    used: dict[str, datetime] = {}
    if keys:
        ids = [key.id for key in keys]
        used = await last_used(session, user_id=keys[0].user_id, key_ids=ids)
    return [
        KeyReply(
            id=key.id, user_id=key.user_id, name=key.name,
            prefix=key.prefix, last_four=key.last_four, scopes=key.scopes, limits=key.limits,
            created_at=key.created_at, expires_at=key.expires_at, revoked_at=key.revoked_at,
            last_used_at=used.get(key.id),
        )
        for key in keys
    ]  # fmt: skip
