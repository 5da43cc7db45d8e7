"""Whether a gateway's memory stays flat: whole answers and streams, as fast as they come.

A round is a minute. A request leaves about a kilobyte in the ledger: ten minutes may take a
gigabyte or two of disk.

python -m benchmarks.memory --rounds 10
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.findings import Finding, below, errors
from benchmarks.gateway import WHOLE, stream
from benchmarks.gateways import galley_gateway, mock_upstream, pin, rss_mb
from benchmarks.http_load import load
from benchmarks.main import main
from benchmarks.servers import Server

CLIENTS = 16
WARM_UP_S = 20.0
MOST_MB = 150.0
MOST_GROWTH_MB = 3.0


async def run(rounds: int) -> list[Finding]:
    """Sample the resident memory once a second under load."""
    with (
        tempfile.TemporaryDirectory(prefix="galley-bench-") as folder,
        mock_upstream() as upstream,
        galley_gateway(upstream, Path(folder)) as server,
    ):
        pin([server], (os.getpid(), upstream.process.pid))
        wrong = await _load(server, WARM_UP_S)
        seconds = 60.0 * rounds
        loading = asyncio.create_task(_load(server, seconds))
        samples, end = list[float](), time.perf_counter() + seconds
        while time.perf_counter() < end:
            await asyncio.sleep(1)
            samples.append(rss_mb(server))
        wrong += await loading
    third = len(samples) // 3
    growth = statistics.median(samples[-third:]) - statistics.median(samples[:third])
    what = f"memory: {rounds} min of load, resident memory"
    return [
        below(what, samples, "MB", MOST_MB),
        below(f"{what}, last third less first", [growth], "MB", MOST_GROWTH_MB),
        *errors(f"memory: {rounds} min of load, errors", {"galley": wrong}),
    ]


async def _load(server: Server, seconds: float) -> int:
    """Return how many answers were wrong."""
    seen = await asyncio.gather(
        load(server, WHOLE, clients=CLIENTS, seconds=seconds),
        load(server, stream(0), clients=CLIENTS, seconds=seconds),
    )
    return sum(each.errors for each in seen)


if __name__ == "__main__":
    main({"memory": run}, __doc__)
