"""What sharing costs: two servers over Redis and PostgreSQL, and one that has all within itself.

The same load on either: whole answers of a model server that answers at once, with a key, seven
limits, a price, metrics, and a row that is on disk before the answer leaves. What counts is
requests per second of CPU: of Galley's own processes, and again with Redis and PostgreSQL.

python -m benchmarks.shared
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.findings import Finding, below, errors, faster, take_turns
from benchmarks.fleet import Fleet, fleet
from benchmarks.gateway import WHOLE
from benchmarks.gateways import cpu_s, galley_gateway, mock_upstream, stopped
from benchmarks.http_load import Question, load
from benchmarks.main import main
from benchmarks.servers import Server

SECONDS = 4.0
CLIENTS = 16
ALONE = "one on SQLite"
AT_LEAST = 0.8


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn came to; CPU in seconds."""

    answers: int
    errors: int
    seconds: float
    traffic: int
    servers_s: float
    redis_s: float
    postgres_s: float

    @property
    def all_s(self) -> float:
        return self.servers_s + self.redis_s + self.postgres_s


async def run(rounds: int) -> list[Finding]:
    """Load both in turns; who is not measured is stopped."""
    with ExitStack() as stack:
        first, second = (Path(stack.enter_context(TemporaryDirectory())) for _ in range(2))
        upstream = stack.enter_context(mock_upstream())
        alone = stack.enter_context(galley_gateway(upstream, first))
        two = stack.enter_context(fleet(upstream, 2, second))
        runs = {
            "galley": partial(turn, two.servers, WHOLE, two, idle=[alone]),
            ALONE: partial(turn, [alone], WHOLE, idle=two.servers),
        }
        turns = await take_turns(runs, rounds)
    return _found(turns)


async def turn(
    servers: Sequence[Server],
    question: Question,
    parts: Fleet | None = None,
    *,
    idle: Sequence[Server] = (),
    clients: int = CLIENTS,
) -> Turn:
    """Load `servers` evenly, with all others stopped; `parts` has the Redis and PostgreSQL."""

    def cpu() -> list[float]:
        shared = [parts.redis_cpu_s(), parts.postgres_cpu_s()] if parts else [0.0, 0.0]
        return [sum(map(cpu_s, servers)), *shared]

    each = clients // len(servers)
    with stopped(idle):
        before = cpu()
        seen = await asyncio.gather(
            *(load(server, question, clients=each, seconds=SECONDS) for server in servers)
        )
        taken = [after - then for then, after in zip(before, cpu(), strict=True)]
    return Turn(
        sum(one.answers for one in seen),
        sum(one.errors for one in seen),
        max(one.seconds for one in seen),
        sum(one.traffic for one in seen),
        *taken,
    )


def _found(turns: Mapping[str, Sequence[Turn]]) -> list[Finding]:
    what = f"shared: a chat request, {CLIENTS} at a time"
    ours = turns["galley"]
    servers = {name: [t.answers / t.servers_s for t in found] for name, found in turns.items()}
    everybody = {name: [t.answers / t.all_s for t in found] for name, found in turns.items()}
    rates = {name: [t.answers / t.seconds for t in found] for name, found in turns.items()}
    wrong = Counter({name: sum(t.errors for t in found) for name, found in turns.items()})
    per_cpu = "requests/s of CPU"
    return [
        faster(what, servers, per_cpu, than=ALONE, at_least=AT_LEAST),
        faster(f"{what}, Redis and PostgreSQL counted", everybody, per_cpu, than=ALONE),
        faster(f"{what}, two cores for all", rates, "requests/s", than=ALONE),
        below(f"{what}, CPU of servers", [1000 * t.servers_s / t.answers for t in ours], "ms"),
        below(f"{what}, CPU of Redis", [1000 * t.redis_s / t.answers for t in ours], "ms"),
        below(f"{what}, CPU of PostgreSQL", [1000 * t.postgres_s / t.answers for t in ours], "ms"),
        *errors("shared: errors", wrong),
    ]


if __name__ == "__main__":
    main({"shared": run}, __doc__)
