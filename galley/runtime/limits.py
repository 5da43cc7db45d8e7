"""Where limits are counted: in this process, or in Redis for all that share it."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime

from galley.core.limits import Counter, Metric
from galley.core.settings import Settings
from galley.db.session import Sessions
from galley.db.spent import outcomes, spent
from galley.runtime.redis import connect_redis
from galley.services.accounts import Accounts
from galley.stores.limiter import Limiter
from galley.stores.limiter_memory import MemoryLimiter


def open_limiter(
    settings: Settings,
    sessions: Sessions,
    instance_id: str,
    accounts: Accounts,
    stack: AsyncExitStack,
) -> Limiter:
    """Open the counters, and tell `accounts` how to make other servers forget."""

    async def spent_since(counter: Counter, since: datetime) -> int:
        async with sessions() as session:
            return await spent(session, counter, since)

    async def outcomes_of(request_ids: Sequence[str]) -> Mapping[str, Mapping[Metric, int]]:
        async with sessions() as session:
            return await outcomes(session, request_ids)

    if settings.redis_url is None:
        limiter: Limiter = MemoryLimiter(spent_since)
    else:
        redis = connect_redis(settings)
        from galley.stores.forgetting import Forgetting
        from galley.stores.limiter_redis import RedisLimiter

        stack.push_async_callback(redis.aclose)
        forgetting = Forgetting(redis, accounts.drop)
        stack.push_async_callback(forgetting.aclose)
        accounts.tell = forgetting.tell
        limiter = RedisLimiter(
            redis, spent_since, outcomes_of, instance_id=instance_id, lost=settings.redis_lost
        )
    stack.push_async_callback(limiter.aclose)
    return limiter
