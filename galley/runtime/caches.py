"""Where answers are kept: in this process, or in Redis for all that share it."""

from contextlib import AsyncExitStack

from galley.core.settings import Settings
from galley.runtime.redis import connect_redis
from galley.stores.cache import Cache
from galley.stores.cache_memory import MemoryCache


def open_cache(settings: Settings, stack: AsyncExitStack) -> Cache:
    """Open what the settings say."""
    if settings.redis_url is None:
        return MemoryCache(settings.cache_bytes)
    redis = connect_redis(settings)
    from galley.stores.cache_redis import RedisCache

    stack.push_async_callback(redis.aclose)
    cache = RedisCache(redis)
    stack.push_async_callback(cache.aclose)
    return cache
