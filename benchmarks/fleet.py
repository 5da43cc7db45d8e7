"""Several servers over one Redis and one PostgreSQL, whose CPU is told apart."""

import asyncio
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from benchmarks.gateways import gateway_settings, serving
from benchmarks.postgres import postgres
from benchmarks.servers import Server, bill, free_port, start


@dataclass(frozen=True, slots=True)
class Fleet:
    """Servers that share what they know."""

    servers: list[Server]
    redis_url: str
    database_url: str
    redis_pid: int
    postgres_pid: int

    def redis_cpu_s(self) -> float:
        """Seconds of CPU that Redis has taken so far."""
        times = psutil.Process(self.redis_pid).cpu_times()
        return times.user + times.system

    def postgres_cpu_s(self) -> float:
        """Seconds of CPU that PostgreSQL has taken so far, connections that are over included."""
        postmaster = psutil.Process(self.postgres_pid)
        own = postmaster.cpu_times()
        running = [child.cpu_times() for child in postmaster.children(recursive=True)]
        ended = own.children_user + own.children_system
        return ended + sum(times.user + times.system for times in (own, *running))


@contextmanager
def fleet(upstream: Server, count: int, folder: Path) -> Generator[Fleet]:
    """Run `count` servers with the model of `upstream`, priced and limited as a lone one is.

    PostgreSQL waits for its disk as SQLite does; it is reached by a socket, Redis over TCP.
    """
    with ExitStack() as stack:
        redis_url, redis_pid = stack.enter_context(_redis(folder))
        database_url = stack.enter_context(postgres())
        settings = gateway_settings(folder, upstream) | {
            "GALLEY_DATABASE_URL": database_url,
            "GALLEY_REDIS_URL": redis_url,
        }
        with serving(settings) as first:
            bill(first, "mock")
        servers = [stack.enter_context(serving(settings)) for _ in range(count)]
        yield Fleet(servers, redis_url, database_url, redis_pid, _postmaster(database_url))


@contextmanager
def _redis(folder: Path) -> Generator[tuple[str, int]]:
    """Run one that keeps nothing; servers wait until it answers."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    with start([*command, "--dir", str(folder)], os.environ) as (process, _):
        yield f"redis://127.0.0.1:{port}/0", process.pid


def _postmaster(url: str) -> int:
    async def backends_parent() -> int:
        connection = await asyncpg.connect(url)
        try:
            return psutil.Process(await connection.fetchval("SELECT pg_backend_pid()")).ppid()
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:  # here, a loop is running already
        return thread.submit(asyncio.run, backends_parent()).result()
