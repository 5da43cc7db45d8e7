"""Tiers, as admins set them."""

from sqlalchemy.exc import IntegrityError

from galley.core.caller import Caller
from galley.core.errors import ConflictError, NotFoundError
from galley.core.filters import FilterRule
from galley.db.session import Sessions
from galley.db.tables import Tier
from galley.db.tiers import find_tier, is_used, list_tiers
from galley.schemas.admin import TierList, TierReply, TierUpdate
from galley.services.accounts import Accounts
from galley.services.audit_log import note

NEW_USERS_TIER = "free"
"""Who is added without a tier is in this one."""

WEIGHTS = {"premium": 4, "enterprise": 16}
"""Those of tiers that were given none; of all others it is 1."""


class Tiers:
    """Says what the users of a tier may do; each change counts from their next request on."""

    def __init__(self, sessions: Sessions, accounts: Accounts) -> None:
        self._sessions = sessions
        self._accounts = accounts

    async def list(self) -> TierList:
        """List all tiers, by name."""
        async with self._sessions() as session:
            return TierList(data=[_reply(tier) for tier in await list_tiers(session)])

    async def put(self, caller: Caller, name: str, request: TierUpdate) -> TierReply:
        """Make a tier, or replace all that it says.

        Raises:
            ConflictError: someone else made it in the same moment.
        """
        try:
            async with self._sessions.begin() as session:
                found = await find_tier(session, name, change=True)
                before = None if found is None else _reply(found).model_dump(mode="json")
                tier = _fill(found or Tier(name=name), request)
                session.add(tier)
                reply = _reply(tier)
                action = "tier.create" if before is None else "tier.update"
                after = reply.model_dump(mode="json")
                await note(session, caller, action, f"tier:{name}", before, after)
        except IntegrityError as error:
            raise ConflictError(
                "Someone else made this tier in the same moment. Look at it, then try again.",
                code="tier_exists",
            ) from error
        self._accounts.forget()
        return reply

    async def delete(self, caller: Caller, name: str) -> TierReply:
        """Delete a tier that nobody is in.

        Raises:
            NotFoundError: there is no such tier.
            ConflictError: somebody is in it, or new users will be.
        """
        if name == NEW_USERS_TIER:
            raise ConflictError(
                f"New users come into the tier {name}, so it stays. Change its limits instead.",
                code="tier_in_use",
            )
        in_use = ConflictError(
            "Somebody is in this tier. Move them to another one first.", code="tier_in_use"
        )
        try:
            async with self._sessions.begin() as session:
                tier = await find_tier(session, name, change=True)
                if tier is None:
                    raise NotFoundError("There is no such tier.", code="tier_not_found")
                if await is_used(session, name):
                    raise in_use
                reply = _reply(tier)
                await session.delete(tier)
                before = reply.model_dump(mode="json")
                await note(session, caller, "tier.delete", f"tier:{name}", before, None)
        except IntegrityError as error:  # somebody came in just now
            raise in_use from error
        return reply


def _fill(tier: Tier, request: TierUpdate) -> Tier:
    tier.scopes = sorted(set(request.scopes))
    tier.models = None if request.models is None else sorted(set(request.models))
    tier.limits = request.limits.model_dump(exclude_none=True)
    tier.model_limits = {
        model: limits.model_dump(exclude_none=True)
        for model, limits in request.model_limits.items()
    }
    tier.weight = request.weight or WEIGHTS.get(tier.name, 1)
    tier.filters = [rule.model_dump(mode="json", exclude_none=True) for rule in request.filters]
    return tier


def _reply(tier: Tier) -> TierReply:
    return TierReply(
        name=tier.name, scopes=tier.scopes, models=tier.models,
        limits=tier.limits, model_limits=tier.model_limits, weight=tier.weight,
        filters=list(map(FilterRule.model_validate, tier.filters)),
    )  # fmt: skip
