"""A cache in Redis, for servers that share it.

Redis may go away. Then every question is a miss: at once, but for one in a second that looks
whether it is back.
"""

import asyncio
import time

import structlog
from redis.asyncio import Redis

from galley.stores.cache import MAX_VALUE_BYTES
from galley.stores.redis_pipe import LostError, RedisPipe

log = structlog.get_logger(__name__)

PREFIX = "{galley}:cache:"
TIMEOUT_S = 0.04
PROBE_S = 1.0


class RedisCache:
    """Keeps values in Redis. How much it holds is Redis's to bound: `maxmemory`.

    Args:
        redis: stays the caller's to close.
    """

    def __init__(self, redis: Redis) -> None:
        self.problem: str | None = None
        self._pipe = RedisPipe(redis, [], timeout_s=TIMEOUT_S)
        self._probe_at = 0.0

    async def get(self, key: str) -> bytes | None:
        if not self._may_ask():
            return None
        try:
            # Those who queue behind a slow round trip would wait for two.
            async with asyncio.timeout(TIMEOUT_S):
                value: bytes | None = await self._pipe.send("GET", PREFIX + key)
        except (LostError, TimeoutError) as error:
            self._lose(error)
            return None
        self._found()
        return value

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        ttl_ms = int(ttl_s * 1000)
        if ttl_ms > 0 and len(value) <= MAX_VALUE_BYTES and self.problem is None:
            self._pipe.send("SET", PREFIX + key, value, "PX", ttl_ms)

    async def aclose(self) -> None:
        """Wait for what is being kept."""
        await self._pipe.aclose()

    def _may_ask(self) -> bool:
        """Whether Redis is there, or it is time to look again; the first who may ask looks."""
        if self.problem is None:
            return True
        if time.monotonic() < self._probe_at:
            return False
        self._probe_at = time.monotonic() + PROBE_S
        return True

    def _lose(self, error: Exception) -> None:
        self._probe_at = time.monotonic() + PROBE_S
        if self.problem is None:
            self.problem = f"Redis is lost ({error}): nothing is cached"
            log.warning("cache_lost", reason=str(error))

    def _found(self) -> None:
        if self.problem is not None:
            self.problem = None
            log.info("cache_found")
