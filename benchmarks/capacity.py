"""What 10, 1,000 and 100,000 requests a second need, by what one request costs here.

A server that has all within itself is loaded, and one over Redis and PostgreSQL; what a request,
a stream, a chunk and a row cost goes into the model of `capacity_model.py`. That predicts what two
servers do, which is measured as well: the last rows tell how far off it was.

python -m benchmarks.capacity
"""

import os
import sqlite3
import statistics
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import psutil
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.capacity_model import Costs, Load, Plan, most_requests_per_s, plan
from benchmarks.findings import Finding, below, errors, faster, take_turns
from benchmarks.fleet import Fleet, fleet
from benchmarks.gateway import WHOLE, stream
from benchmarks.gateways import cpu_s, galley_gateway, mock_upstream
from benchmarks.http_load import Question
from benchmarks.main import main
from benchmarks.servers import Server
from benchmarks.shared import CLIENTS, turn

FEW, MANY, PAUSE_MS, STREAMS = 20, 220, 10, 64
SUMS = 20_000
LOADS = (Load(10, keys=10), Load(1_000, keys=1_000), Load(100_000, keys=100_000))
_BYTES = {"redis_traffic_per_s", "day", "month", "kept", "log_per_s", "traffic_per_s"}
_TABLES = ("api_requests", "receipts", "usage_hourly", "usage_daily")

Figures = dict[str, float]
"""What a turn came to: answers, seconds, CPU of everybody, and what the parts have counted."""


async def run(rounds: int) -> list[Finding]:
    """Measure one server of each kind, and then two."""
    with ExitStack() as stack:
        first, second = (Path(stack.enter_context(TemporaryDirectory())) for _ in range(2))
        upstream = stack.enter_context(mock_upstream())
        alone = stack.enter_context(galley_gateway(upstream, first))
        parts = stack.enter_context(fleet(upstream, 2, second))
        bench = _Bench(upstream, alone, parts)
        runs = {
            "alone": partial(bench.alone, WHOLE),
            "one": partial(bench.shared, parts.servers[:1]),
            "two": partial(bench.shared, parts.servers),
            "few": partial(bench.alone, stream(PAUSE_MS, FEW), STREAMS),
            "many": partial(bench.alone, stream(PAUSE_MS, MANY), STREAMS),
        }
        turns = {name: _median(found) for name, found in (await take_turns(runs, rounds)).items()}
        sizes = await _sizes(parts) | {"sqlite_request": _sqlite_request(first / "galley.db")}
    costs = _costs(turns, sizes)
    plans = [plan(costs, load) for load in LOADS]
    _show(plans)
    return [
        *(_cost(name, value) for name, value in asdict(costs).items()),
        *(row for load, made in zip(LOADS, plans, strict=True) for row in _needs(load, made)),
        *_checked(costs, turns["one"], turns["two"]),
        *errors("capacity: errors", {"galley": bench.errors}),
    ]


class _Bench:
    """The servers; who is not loaded is stopped."""

    def __init__(self, upstream: Server, alone: Server, parts: Fleet) -> None:
        self._upstream = upstream
        self._alone = alone
        self._parts = parts
        self.errors = 0

    async def alone(self, question: Question, clients: int = CLIENTS) -> Figures:
        """Load the server that has all within itself."""
        taken = await turn([self._alone], question, idle=self._parts.servers, clients=clients)
        self.errors += taken.errors
        return asdict(taken)

    async def shared(self, servers: Sequence[Server]) -> Figures:
        """Load servers that share, each as much as one alone: they write in groups as large."""
        idle = [self._alone, *(other for other in self._parts.servers if other not in servers)]
        before = await self._counted()
        clients = CLIENTS * len(servers)
        taken = await turn(servers, WHOLE, self._parts, idle=idle, clients=clients)
        self.errors += taken.errors
        counted = {name: now - before[name] for name, now in (await self._counted()).items()}
        return asdict(taken) | counted

    async def _counted(self) -> Figures:
        """What the parts have counted so far.

        `load_s` is CPU of the load and of the model's server, `busy_s` of the whole machine.
        """
        times, machine = os.times(), psutil.cpu_times()
        with redis.Redis.from_url(self._parts.redis_url) as client:
            told = client.info()
        rows, log = await _asked(
            self._parts, "SELECT (SELECT count(*) FROM api_requests), pg_current_wal_lsn() - '0/0'"
        )
        return {
            "load_s": times.user + times.system + cpu_s(self._upstream),
            "busy_s": sum(machine) - machine.idle - getattr(machine, "iowait", 0.0),
            "operations": told["total_commands_processed"],
            "redis_traffic": told["total_net_input_bytes"] + told["total_net_output_bytes"],
            "rows": rows,
            "log": float(log),
        }


async def _asked(parts: Fleet, query: str) -> asyncpg.Record:
    connection = await asyncpg.connect(parts.database_url)
    try:
        return await connection.fetchrow(query)
    finally:
        await connection.close()


async def _sizes(parts: Fleet) -> Figures:
    """Bytes of a row and of a receipt, and of the sums of an hour, of which many are made up."""
    months = "SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree('{0}')"
    size = f"greatest(pg_total_relation_size('{{0}}'), ({months})) AS {{0}}"
    sizes = ", ".join(map(size.format, _TABLES))
    query = f"SELECT (SELECT count(*) FROM api_requests) AS rows, {sizes}"  # noqa: S608
    before = await _asked(parts, query)
    for table, key, at in (
        ("usage_hourly", "user_id, hour, key_id", "gen_random_uuid(), now(), gen_random_uuid()"),
        ("usage_daily", "user_id, day", "gen_random_uuid(), now()"),
    ):
        await _asked(
            parts,
            f"INSERT INTO {table} SELECT {at}, 'chat/completions', 'mock', 9, 9, 9, 9, 9, 9, 9"  # noqa: S608
            f" FROM generate_series(1, {SUMS}) RETURNING {key}",
        )
    after = await _asked(parts, query)
    hour, day = ((after[name] - before[name]) / SUMS for name in _TABLES[2:])
    rows = before["rows"]
    return {
        "row": before["api_requests"] / rows,
        "receipt": before["receipts"] / rows,
        "hour": hour + day / 24,
    }


def _sqlite_request(path: Path) -> float:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        (size,) = database.execute(
            "SELECT page_size * (page_count - freelist_count)"
            " FROM pragma_page_size, pragma_page_count, pragma_freelist_count"
        ).fetchone()
        (rows,) = database.execute("SELECT count(*) FROM api_requests").fetchone()
    return size / rows


def _median(turns: Sequence[Figures]) -> Figures:
    """The medians of what the turns came to, for an answer; but of `seconds` and `answers`."""
    per = [
        {n: v if n in ("seconds", "answers") else v / found["answers"] for n, v in found.items()}
        for found in turns
    ]
    return {name: statistics.median(each[name] for each in per) for name in per[0]}


def _costs(turns: dict[str, Figures], sizes: Figures) -> Costs:
    one, few, many = turns["one"], turns["few"], turns["many"]
    chunk_s = (many["servers_s"] - few["servers_s"]) / (MANY - FEW)
    return Costs(
        alone_s=turns["alone"]["servers_s"],
        server_s=one["servers_s"],
        redis_s=one["redis_s"],
        postgres_s=one["postgres_s"],
        stream_s=few["servers_s"] - FEW * chunk_s,
        chunk_s=chunk_s,
        http=turns["alone"]["traffic"],
        chunk=(many["traffic"] - few["traffic"]) / (MANY - FEW),
        redis_operations=one["operations"],
        redis_traffic=one["redis_traffic"],
        log=one["log"],
        **sizes,
    )


def _checked(costs: Costs, one: Figures, two: Figures) -> list[Finding]:
    """Hold what the model says of two servers, by what one cost, against what two did.

    What others on this machine took meanwhile is not there for them.
    """
    measured = two["answers"] / two["seconds"]
    ours = sum(two[name] for name in ("servers_s", "redis_s", "postgres_s", "load_s"))
    cores = (os.cpu_count() or 1) - max(0.0, two["busy_s"] - ours) * measured
    rate = most_requests_per_s(costs, servers=2, cores=cores, load_s=one["load_s"])
    pairs = {
        "requests/s": (rate, measured),
        "Redis operations/s": (rate * costs.redis_operations, measured * two["operations"]),
        "rows/s": (rate, measured * two["rows"]),
        "bytes of log/s": (rate * costs.log, measured * two["log"]),
    }
    return [
        faster(
            "capacity: two servers, predicted", {"galley": [said], "measured": [was]}, unit,
            than="measured",
        )
        for unit, (said, was) in pairs.items()
    ]  # fmt: skip


def _cost(name: str, value: float) -> Finding:
    what = f"capacity: {name.removesuffix('_s')} of a request"
    if name.endswith("_s"):
        return below(f"{what}, CPU", [1000 * value], "ms")
    return below(what, [value], "" if name == "redis_operations" else "bytes")


def _needs(load: Load, made: Plan) -> list[Finding]:
    what = f"capacity: {load.requests_per_s:,g} requests/s"
    return [
        below(f"{what}, {name}", [float(value)], "bytes" if name in _BYTES else "")
        for name, value in asdict(made).items()
    ]


def _show(plans: Sequence[Plan]) -> None:
    """Print what each load needs."""
    table = Table("", *(f"{load.requests_per_s:,g}/s" for load in LOADS), box=None)
    for name in asdict(plans[0]):
        values = [float(getattr(made, name)) for made in plans]
        table.add_row(name, *(_told(name, value) for value in values))
    Console(width=100).print(table)


def _told(name: str, value: float) -> str:
    if name not in _BYTES:
        return f"{value:,.2f}".removesuffix(".00")
    return f"{value / 1e6:,.2f} MB" if name.endswith("_per_s") else f"{value / 1e9:,.1f} GB"


if __name__ == "__main__":
    main({"capacity": run}, __doc__)
