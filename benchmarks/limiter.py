"""What limits cost: CPU of reserving and settling four of them, in memory and in Redis.

python -m benchmarks.limiter
"""

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from benchmarks.findings import Finding, Run, below, faster, take_turns
from benchmarks.main import main
from benchmarks.servers import PEERS, ROOT
from galley.core.limits import Counter, Metric
from galley.stores.limiter import Demand, Limiter
from galley.stores.limiter_memory import MemoryLimiter
from galley.stores.limiter_redis import RedisLimiter
from tests.redis_server import RedisServer

REQUESTS = {"memory": 10_000, "redis": 1_600}
CLIENTS = {"memory": 1, "redis": 16}
IN_FLIGHT = 64
USERS = 500
LIBRARY = "limits"
AT_MOST_US = 15.0
USED: dict[Metric, int] = {"requests": 1, "tokens": 100, "cost": 1}


async def run(rounds: int) -> list[Finding]:
    """Measure both ways to keep limits beside the `limits` library, where that is installed."""
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="galley-bench-") as folder:
        redis = RedisServer(Path(folder))
        kinds = ["memory"]
        if shutil.which("redis-server"):
            redis.start()
            kinds.append("redis")
        try:
            for kind in kinds:
                findings += await _compare(kind, redis, rounds)
        finally:
            redis.stop()
    return findings


async def _compare(kind: str, redis: RedisServer, rounds: int) -> list[Finding]:
    async with _limiter(kind, redis) as limiter:
        reserving_us: list[float] = []
        runs: dict[str, Run] = {"galley": partial(_ours, limiter, kind, reserving_us)}
        if await _has_library():
            runs[LIBRARY] = partial(_library, kind, redis)
        turns = await take_turns(runs, rounds)
    what = f"limits in {kind}: four per request"
    whole_us = [1e6 / rate for rate in turns["galley"]]
    findings = [below(f"{what}, reserved and settled", whole_us, "us of CPU")]
    if kind == "memory":
        findings += [below(f"{what}, reserved", reserving_us, "us of CPU", AT_MOST_US)]
    if LIBRARY in turns:
        findings += [faster(what, turns, "requests/s of CPU", than=LIBRARY, at_least=1.0)]
    return findings


@asynccontextmanager
async def _limiter(kind: str, redis: RedisServer) -> AsyncGenerator[Limiter]:
    if kind == "memory":
        yield MemoryLimiter(_nothing_spent)
        return
    async with redis.client() as client:
        limiter = RedisLimiter(client, _nothing_spent, _no_outcomes, instance_id="benchmark")
        yield limiter
        await limiter.aclose()


async def _ours(limiter: Limiter, kind: str, reserving_us: list[float]) -> float:
    """Requests per second of CPU; what reserving alone takes of it goes to `reserving_us`."""
    requests = REQUESTS[kind]
    names = [f"{time.monotonic_ns()}-{number}" for number in range(requests)]
    demands = [_demands(f"user:{number % USERS}") for number in range(requests)]

    async def reserve(number: int) -> None:
        assert (await limiter.reserve(names[number], demands[number])).refused is None

    async def settle(number: int) -> None:
        await limiter.settle(names[number], demands[number], USED)

    reserving = settling = 0.0
    for begin in range(0, requests, IN_FLIGHT):
        batch = range(begin, min(begin + IN_FLIGHT, requests))
        reserving += await _timed(CLIENTS[kind], batch, reserve)
        settling += await _timed(CLIENTS[kind], batch, settle)
    assert limiter.problem is None
    reserving_us.append(1e6 * reserving / requests)
    return requests / (reserving + settling)


async def _timed(clients: int, batch: range, call: Callable[[int], Awaitable[None]]) -> float:
    """Seconds of CPU that it takes `clients` to make the calls of `batch`."""
    numbers = iter(batch)

    async def client() -> None:
        for number in numbers:
            await call(number)

    began = time.process_time()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.process_time() - began


async def _library(kind: str, redis: RedisServer) -> float:
    path = ROOT / "benchmarks" / "peers" / "limits_library.py"
    arguments = [kind, str(redis.socket), str(CLIENTS[kind]), str(REQUESTS[kind])]
    return 1 / float(await _peers_python(str(path), *arguments))


async def _has_library() -> bool:
    return PEERS.exists() and bool(
        await _peers_python("-c", "import importlib.util as u; print(u.find_spec('limits') or '')")
    )


async def _peers_python(*arguments: str) -> str:
    command = [str(PEERS / "bin" / "python"), *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def _demands(subject: str) -> list[Demand]:
    return [
        Demand(Counter(subject, "requests", "minute"), 10**9, 1),
        Demand(Counter(subject, "tokens", "minute"), 10**9, 500),
        Demand(Counter(subject, "cost", "day"), 10**9, 5),
        Demand(Counter(subject, "concurrency", "now"), 10**9, 1),
    ]


async def _nothing_spent(_counter: Counter, _since: datetime) -> int:
    return 0


async def _no_outcomes(_request_ids: Sequence[str]) -> Mapping[str, Mapping[Metric, int]]:
    return {}


if __name__ == "__main__":
    main({"limiter": run}, __doc__)
