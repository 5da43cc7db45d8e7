"""Servers that share a Redis tell each other whom to look up anew."""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from galley.stores.redis_pipe import end

log = structlog.get_logger(__name__)

CHANNEL = "{galley}:forget"
EVERYBODY = "*"
PAUSE_S = 1.0  # before listening again


class Forgetting:
    """Tells the other servers, and hears what they tell.

    What is said while Redis is away is lost, so who comes back to it forgets everybody.

    Args:
        redis: stays the caller's to close.
        forget: called with a user's id, or None for everybody; also for what we told ourselves.
    """

    def __init__(self, redis: Redis, forget: Callable[[str | None], None]) -> None:
        self._redis = redis
        self._forget = forget
        self._telling: set[asyncio.Task[None]] = set()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    def tell(self, user_id: str | None) -> None:
        """Tell every server; nobody waits for it."""
        task = asyncio.get_running_loop().create_task(self._publish(user_id or EVERYBODY))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def aclose(self) -> None:
        """Say what is still to be said, and stop listening."""
        await asyncio.gather(*self._telling)
        await end(self._listening)

    async def _publish(self, said: str) -> None:
        try:
            await self._redis.publish(CHANNEL, said)
        except (RedisError, OSError) as error:
            log.warning("revocation_not_told", error=str(error))

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    async for message in channel.listen():
                        self._hear(message)
            except (RedisError, OSError) as error:
                log.warning("revocations_not_heard", error=str(error))
            await asyncio.sleep(PAUSE_S)

    def _hear(self, message: dict[str, Any]) -> None:
        # The client connects and subscribes anew by itself, and says so.
        if message["type"] == "subscribe" or message["data"] == EVERYBODY.encode():
            self._forget(None)
        elif message["type"] == "message":
            self._forget(message["data"].decode())
