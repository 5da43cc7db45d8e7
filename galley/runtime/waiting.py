"""Waits at the start for what the server cannot do without."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from galley.core.settings import Settings, SettingsError
from galley.db.session import NotThereYetError
from galley.runtime.redis import connect_redis

log = structlog.get_logger(__name__)

PAUSE_S = 1.0
PING_S = 5.0

T = TypeVar("T")


async def until_there(
    what: str, attempt: Callable[[], Awaitable[T]], longest_s: float, *, pause_s: float = PAUSE_S
) -> T:
    """Return what `attempt` does, which is made again as long as it says that nothing is there yet.

    Raises:
        SettingsError: it is not there after `longest_s`, or `attempt` says that it never will be.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + longest_s
    while True:
        try:
            return await attempt()
        except NotThereYetError as error:
            left = end - loop.time()
            if left <= 0:
                raise SettingsError(
                    f"{error}. Waited {longest_s:g} s for {what} (GALLEY_STARTUP_TIMEOUT)."
                ) from error
            log.warning(
                "waiting_for_dependency",
                dependency=what, reason=str(error), seconds_left=math.ceil(left),
            )  # fmt: skip
            await asyncio.sleep(min(pause_s, left))


async def until_redis(settings: Settings) -> None:
    """Wait for Redis, where it is set.

    Raises:
        SettingsError: it does not answer in time, or refuses us.
    """
    if settings.redis_url is not None:
        await until_there("Redis", lambda: _ping(settings), settings.startup_timeout)


async def _ping(settings: Settings) -> None:
    redis = connect_redis(settings)
    from redis.exceptions import AuthenticationError, RedisError

    try:
        async with asyncio.timeout(PING_S):
            await redis.execute_command("PING")
    except (RedisError, OSError, TimeoutError) as error:
        if isinstance(error.__cause__ or error, AuthenticationError):
            raise SettingsError(f"GALLEY_REDIS_URL: Redis refuses it: {error}") from error
        reason = str(error) or "no answer"
        raise NotThereYetError(f"Redis (GALLEY_REDIS_URL) does not answer: {reason}") from error
    finally:
        await redis.aclose()
