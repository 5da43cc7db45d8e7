"""Who a caller is, and what they may do with the key they came with."""

from galley.core.caller import NO_KEY, Caller
from galley.db.session import Sessions
from galley.schemas.profiles import MeReply
from galley.services.keys import KeyService
from galley.services.people import find_known
from galley.services.usage import LimitsLeft


class Profiles:
    """Describes callers to themselves.

    Args:
        limits_left: what is told of their limits; without it, nothing is.
    """

    def __init__(
        self, sessions: Sessions, keys: KeyService, limits_left: LimitsLeft | None = None
    ) -> None:
        self._sessions = sessions
        self._keys = keys
        self._limits_left = limits_left

    async def of(self, caller: Caller) -> MeReply:
        """Describe `caller`."""
        async with self._sessions() as session:
            user = await find_known(session, caller.user_id)
        key = None
        if caller.key_id != NO_KEY:
            key = await self._keys.find(caller.user_id, caller.key_id)
        limits = await self._limits_left(caller) if self._limits_left else []
        return MeReply(
            user_id=user.id,
            email=user.email,
            name=user.name,
            tier=caller.tier,
            scopes=sorted(caller.scopes),
            models=None if caller.models is None else sorted(caller.models),
            limits=limits,
            credit_left=next((left.remaining for left in limits if left.period == "ever"), None),
            key=key,
        )
