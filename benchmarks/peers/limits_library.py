"""The `limits` library: four limits checked, one after the other, as it is used.

It gives nothing back and takes its four limits in four steps. Its sliding window is the counter,
which approximates; the exact one keeps an entry per token.

python limits_library.py memory|redis SOCKET CLIENTS COUNT
"""

# It is in the peers' environment, where no type checker looks.
# pyright: basic, reportMissingImports=false

import asyncio
import sys
import time

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

LIMITS: list[tuple[RateLimitItem, int]] = [
    (RateLimitItemPerMinute(10**9, namespace="requests"), 1),
    (RateLimitItemPerMinute(10**9, namespace="tokens"), 500),
    (RateLimitItemPerDay(10**9, namespace="cost"), 5),
    (RateLimitItemPerDay(10**9, namespace="images"), 1),
]
USERS = 500


async def main(kind: str, socket: str, clients: int, count: int) -> None:
    """Print the seconds of CPU per request."""
    uri = f"async+redis+unix://{socket}"
    storage = RedisStorage(uri, implementation="redispy") if kind == "redis" else MemoryStorage()
    limiter = SlidingWindowCounterRateLimiter(storage)

    async def client(number: int, times: int) -> None:
        for each in range(times):
            user = f"user:{(number + each) % USERS}"
            for limit, cost in LIMITS:
                assert await limiter.hit(limit, user, cost=cost)

    async def all_clients(times: int) -> None:
        await asyncio.gather(*(client(number, times // clients) for number in range(clients)))

    await all_clients(count // 10 + clients)
    began = time.process_time()
    await all_clients(count)
    print((time.process_time() - began) / (count // clients * clients))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
