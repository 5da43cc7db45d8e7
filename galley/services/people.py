"""Users, as admins look after them."""

from collections.abc import Mapping, Sequence

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.caller import ADMIN_SCOPES, Caller
from galley.core.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
)
from galley.core.limits import MOST
from galley.db.refresh_tokens import end_logins
from galley.db.session import Sessions
from galley.db.spent import costs
from galley.db.tables import User, utc_now
from galley.db.tiers import find_tier
from galley.db.users import create_user, find_user, list_users, lock_active_admins
from galley.schemas.admin import UserCreate, UserList, UserReply, UserUpdate
from galley.services.accounts import Accounts, caller_of
from galley.services.audit_log import note
from galley.services.passwords import Passwords


class People:
    """Adds users and changes what they may do; each change counts from the next request on.

    Admins are made and changed only by those who hold every admin scope.
    """

    def __init__(self, sessions: Sessions, accounts: Accounts, passwords: Passwords) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._passwords = passwords

    async def list(
        self, *, email: str | None = None, after: str | None = None, limit: int = 100
    ) -> UserList:
        """List users, the oldest first.

        Args:
            email: only those whose address has this in it.
        Raises:
            BadRequestError: `after` is not an id.
        """
        async with self._sessions() as session:
            page = await list_users(session, email=email, after=after, limit=limit)
            return UserList(data=await _replies(session, page.rows), has_more=page.has_more)

    async def find(self, user_id: str) -> UserReply:
        """Describe a user.

        Raises:
            NotFoundError: there is no such user.
        """
        async with self._sessions() as session:
            return await _reply(session, await find_known(session, user_id))

    async def create(self, caller: Caller, request: UserCreate) -> UserReply:
        """Add a user.

        Raises:
            PermissionDeniedError: it is to be an admin, and the caller is less than one.
            BadRequestError: there is no such tier.
            ConflictError: someone has that address.
        """
        if request.is_admin:
            _permit_admins(caller)
        hashed = await self._hash(request.password)
        try:
            async with self._sessions.begin() as session:
                await _keep_tier(session, request.tier)
                user = await create_user(
                    session,
                    email=request.email.lower(),
                    name=request.name,
                    tier=request.tier,
                    is_admin=request.is_admin,
                )
                user.password_hash = hashed
                user.limits = request.limits.model_dump(exclude_unset=True)
                reply = await _reply(session, user)
                await _note(session, caller, "user.create", None, reply)
        except IntegrityError as error:
            raise ConflictError(
                "Someone has this address already.", code="email_taken", param="email"
            ) from error
        return reply

    async def update(self, caller: Caller, user_id: str, request: UserUpdate) -> UserReply:
        """Change a user: what `request` sets, and nothing else.

        Raises:
            NotFoundError: there is no such user.
            PermissionDeniedError: this makes or changes an admin, and the caller is less than one.
            BadRequestError: there is no such tier.
            ConflictError: the last admin would be gone.
        """
        hashed = await self._hash(request.password)
        async with self._sessions.begin() as session:
            if "status" in request.model_fields_set or "is_admin" in request.model_fields_set:
                admins = {admin.id for admin in await lock_active_admins(session)}
            else:
                admins = None
            user = await find_to_change(session, caller, user_id)
            before = await _reply(session, user)
            await _apply(session, caller, user, request)
            if hashed is not None:
                await _set_password(session, caller, user, hashed)
            if admins == {user.id} and not (user.is_admin and user.status == "active"):
                raise ConflictError(
                    "This is the last active admin. Make another one first.", code="last_admin"
                )
            reply = await _reply(session, user)
            await _note(session, caller, "user.update", before, reply, password=hashed is not None)
        self._accounts.forget(user.id)
        return reply

    async def top_up(self, caller: Caller, user_id: str, amount: int) -> UserReply:
        """Add `amount` micro-dollars to what a user has paid ahead.

        The first time, it comes on top of what they had spent so far, which is billed afterwards.

        Raises:
            NotFoundError: there is no such user.
            PermissionDeniedError: it is an admin, and the caller is less than one.
            BadRequestError: it would be more than any limit can say.
        """
        async with self._sessions.begin() as session:
            user = await find_to_change(session, caller, user_id)
            before = await _reply(session, user)
            if user.credit is None:
                user.credit = user.spent_before_credit = (await costs(session, [user.id]))[user.id]
            if user.credit + amount > MOST:
                raise BadRequestError(
                    f"The credit would be over {MOST} micro-dollars, which is the highest.",
                    code="credit_too_high",
                    param="amount",
                )
            user.credit += amount
            reply = await _reply(session, user)
            await _note(session, caller, "user.credit", before, reply)
        self._accounts.forget(user.id)
        return reply

    async def disable(self, caller: Caller, user_id: str) -> UserReply:
        """Shut a user out, at once and until an admin makes them active again; as `update`."""
        return await self.update(caller, user_id, UserUpdate(status="disabled"))

    async def _hash(self, password: str | None) -> str | None:
        return None if password is None else await self._passwords.hash(password)


async def find_known(session: AsyncSession, user_id: str, *, change: bool = False) -> User:
    """Find a user.

    Raises:
        NotFoundError: there is no such user.
    """
    user = await find_user(session, user_id, change=change)
    if user is None:
        raise NotFoundError("There is no such user.", code="user_not_found")
    return user


async def find_to_change(session: AsyncSession, caller: Caller, user_id: str) -> User:
    """Find a user whom `caller` may change, or whose keys; nobody else can until the end.

    Raises:
        NotFoundError: there is no such user.
        PermissionDeniedError: it is an admin, and the caller is less than one.
    """
    user = await find_known(session, user_id, change=True)
    if user.is_admin and user.id != caller.user_id:
        _permit_admins(caller)
    return user


async def scopes_of(session: AsyncSession, user: User) -> frozenset[str]:
    """Everything that `user` may do; a key of theirs may have less."""
    tier = await find_tier(session, user.tier)
    return frozenset() if tier is None else caller_of(user, tier).scopes


async def _apply(session: AsyncSession, caller: Caller, user: User, request: UserUpdate) -> None:
    if request.is_admin is not None and request.is_admin != user.is_admin:
        _permit_admins(caller)
        user.is_admin = request.is_admin
    if request.tier is not None:
        await _keep_tier(session, request.tier)
        user.tier = request.tier
    if request.status is not None:
        if request.status == "disabled":
            user.tokens_from = utc_now()
        user.status = request.status
    if request.limits is not None:
        user.limits = request.limits.model_dump(exclude_unset=True)
    user.name = request.name or user.name
    await session.flush()


async def _set_password(session: AsyncSession, caller: Caller, user: User, hashed: str) -> None:
    # An admin's own as well: with it, a key with few scopes would become a login with all.
    if user.is_admin:
        _permit_admins(caller)
    now = utc_now()
    user.password_hash, user.tokens_from = hashed, now
    await end_logins(session, user.id, now=now)


def _permit_admins(caller: Caller) -> None:
    for scope in ADMIN_SCOPES:
        if not caller.may(scope):
            raise PermissionDeniedError(
                f"Admins are changed by full admins alone; you lack the scope `{scope}`.",
                code="missing_scope",
            )


async def _keep_tier(session: AsyncSession, name: str) -> None:
    if await find_tier(session, name, keep=True) is None:
        raise BadRequestError(
            "There is no such tier. `galley tiers list` or GET /v1/admin/tiers shows them all.",
            code="unknown_tier",
            param="tier",
        )


async def _note(
    session: AsyncSession,
    caller: Caller,
    action: str,
    before: UserReply | None,
    after: UserReply,
    *,
    password: bool = False,
) -> None:
    told = None if before is None else before.model_dump(mode="json")
    made = after.model_dump(mode="json") | ({"password": "changed"} if password else {})
    await note(session, caller, action, f"user:{after.id}", told, made)


async def _reply(session: AsyncSession, user: User) -> UserReply:
    return (await _replies(session, [user]))[0]


async def _replies(session: AsyncSession, users: Sequence[User]) -> list[UserReply]:
    prepaid = [user.id for user in users if user.credit is not None]
    spent = await costs(session, prepaid) if prepaid else {}
    return [
        UserReply(
            id=user.id, email=user.email, name=user.name, tier=user.tier, status=user.status,
            is_admin=user.is_admin, has_password=user.password_hash is not None,
            limits=user.limits, credit=user.credit, credit_left=_left(user, spent),
            created_at=user.created_at,
        )
        for user in users
    ]  # fmt: skip


def _left(user: User, spent: Mapping[str, int]) -> int | None:
    return None if user.credit is None else max(0, user.credit - spent[user.id])
