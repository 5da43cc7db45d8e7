"""Reserve in Redis as one of several servers, and print what was let in.

`burst`: ask 64 times at once, twice over, and use it. `forever`: hold what was let in until
killed.

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
        limiter = RedisLimiter(
            client, nothing_spent, no_outcomes, instance_id=instance_id, lost="closed"
        )
        admitted: list[str] = []
        for burst in range(2):
            asked = [f"{instance_id}-{burst}-{n}" for n in range(64)]
            verdicts = await asyncio.gather(*(limiter.reserve(each, demands) for each in asked))
            admitted += [a for a, v in zip(asked, verdicts, strict=True) if v.refused is None]
        assert limiter.problem is None
        os.write(1, f"{len(admitted)}\n".encode())
        if how == "forever":
            await asyncio.Event().wait()
        # What a server leaves unsettled is taken for not done, and given back to the others.
        for request_id in admitted:
            await limiter.settle(request_id, demands, {"requests": 1, "tokens": 1000})
        await limiter.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
