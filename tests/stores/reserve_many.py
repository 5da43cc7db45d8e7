"""Reserve in Redis as one of several servers, and print what was let in.

`burst`: ask 64 times at once, twice over. `forever`: hold what was let in until killed.

python reserve_many.py SOCKET INSTANCE LIMIT burst|forever
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

from redis.asyncio import Redis

from galley.core.limits import Counter, Metric
from galley.stores.limiter import Demand
from galley.stores.limiter_redis import RedisLimiter


async def nothing_spent(_counter: Counter, _since: datetime) -> int:
    return 0


async def no_outcomes(_request_ids: Sequence[str]) -> Mapping[str, Mapping[Metric, int]]:
    return {}


async def main(socket: str, instance_id: str, limit: int, how: str) -> None:
    demands = [
        Demand(Counter("user:1", "requests", "minute"), limit, 1),
        Demand(Counter("user:1", "tokens", "day"), 10**9, 1000),
        Demand(Counter("user:1", "concurrency", "now"), 10**9, 1),
    ]
    async with Redis(unix_socket_path=socket) as client:
        limiter = RedisLimiter(client, nothing_spent, no_outcomes, instance_id=instance_id)
        verdicts = [
            verdict
            for burst in range(2)
            for verdict in await asyncio.gather(
                *(limiter.reserve(f"{instance_id}-{burst}-{n}", demands) for n in range(64))
            )
        ]
        assert limiter.problem is None
        os.write(1, f"{sum(verdict.refused is None for verdict in verdicts)}\n".encode())
        if how == "forever":
            await asyncio.Event().wait()
        await limiter.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
