"""How much of everything a load needs, by what one request, chunk and row were seen to cost.

Pure: figures in, figures out. `capacity.py` measures the figures, and checks what comes out.
"""

import math
from dataclasses import dataclass

HEADROOM = 0.6
"""The share of a core that is planned for; the rest is for peaks, and for a server that is gone."""

DAY_S = 86_400
MONTH_DAYS = 30


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured. CPU in seconds, sizes in bytes; of a whole request unless it says else."""

    alone_s: float
    """CPU of a server that has all within itself."""
    server_s: float
    """CPU of a server that shares with others."""
    redis_s: float
    postgres_s: float
    stream_s: float
    """CPU of a server that has all within itself for a stream, besides its chunks."""
    chunk_s: float
    http: float
    """Of request and answer, heads included; a stream's besides its chunks."""
    chunk: float
    redis_operations: float
    redis_traffic: float
    row: float
    """In PostgreSQL, its part of the indexes included; so are the next three."""
    receipt: float
    hour: float
    """Of the sums of an hour, for a key, endpoint and model."""
    log: float
    """Written ahead for a request, and reused."""
    sqlite_request: float
    """All that SQLite keeps of a request."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked.

    Args:
        streamed: the share of requests that are streams.
        chunks: of a stream.
        keys: those in use in any hour.
        days: how long requests are kept.
        receipt_days: how long receipts are.
    """

    requests_per_s: float
    streamed: float = 0.5
    chunks: int = 200
    keys: int = 100
    days: int = 90
    receipt_days: int = 7


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load needs. `cores` are of CPU that is busy, before any headroom; sizes in bytes.

    Args:
        alone: whether one server on SQLite does it.
        installations: how many, each with a Redis and a PostgreSQL of its own, as a Redis is one
            core.
        month: PostgreSQL's partition of a month, or what SQLite has after one.
        kept: what is there once the oldest is deleted as fast as the newest comes.
        traffic_per_s: between clients and servers; models' servers see the same once more.
    """

    alone: bool
    server_cores: float
    servers: int
    installations: int
    redis_cores: float
    redis_operations_per_s: float
    redis_traffic_per_s: float
    postgres_cores: float
    rows_per_s: float
    day: float
    month: float
    kept: float
    log_per_s: float
    traffic_per_s: float


def plan(costs: Costs, load: Load) -> Plan:
    """Say what `load` needs."""
    rate = load.requests_per_s
    streams = rate * load.streamed
    relaying = streams * (costs.stream_s - costs.alone_s + load.chunks * costs.chunk_s)
    alone_cores = rate * costs.alone_s + relaying
    alone = alone_cores <= HEADROOM
    server_cores = alone_cores if alone else rate * costs.server_s + relaying
    shared = 0.0 if alone else rate
    redis_cores = shared * costs.redis_s
    day, month, kept = _stored(costs, load, alone=alone)
    return Plan(
        alone=alone,
        server_cores=server_cores,
        servers=1 if alone else max(2, math.ceil(server_cores / HEADROOM)),
        installations=max(1, math.ceil(redis_cores / HEADROOM)),
        redis_cores=redis_cores,
        redis_operations_per_s=shared * costs.redis_operations,
        redis_traffic_per_s=shared * costs.redis_traffic,
        postgres_cores=shared * costs.postgres_s,
        rows_per_s=rate,
        day=day,
        month=month,
        kept=kept,
        log_per_s=shared * costs.log,
        traffic_per_s=rate * costs.http + streams * load.chunks * costs.chunk,
    )


def _stored(costs: Costs, load: Load, *, alone: bool) -> tuple[float, float, float]:
    """What comes in a day, what a month has, and what is there in the long run, after a year."""
    requests = load.requests_per_s * DAY_S
    sums = load.keys * 24 * costs.hour
    row, receipt = (costs.sqlite_request, 0.0) if alone else (costs.row, costs.receipt)
    day = requests * (row + receipt) + sums
    month = requests * row * MONTH_DAYS
    kept = requests * (row * load.days + receipt * load.receipt_days) + sums * 365
    return day, month, kept


def most_requests_per_s(costs: Costs, *, servers: int, cores: float, load_s: float) -> float:
    """How many requests so many servers answer at most, on a machine that has the load as well.

    A server is one core at most; all that a request takes of anybody has to fit on the machine.

    Args:
        cores: of the machine, less what others take.
        load_s: CPU of the load and of the model's server, for a request.
    """
    everybody = costs.server_s + costs.redis_s + costs.postgres_s + load_s
    return min(servers / costs.server_s, cores / everybody)
