"""What `galley migrate` takes for a million requests: time, and memory that stays flat.

python -m benchmarks.moving
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.findings import Finding, above, below
from benchmarks.main import main
from benchmarks.postgres import postgres
from benchmarks.usage import REQUESTS, add_users, fill
from galley.db.session import open_database

LOOK_S = 0.1
GROWTH_MB = 20.0


@dataclass(frozen=True, slots=True)
class Moved:
    """How long it took, and what memory it had from look to look."""

    seconds: float
    rss_mb: list[float]

    @property
    def growth_mb(self) -> float:
        """From the second quarter of the time to the last one, by their medians."""
        quarter = len(self.rss_mb) // 4
        early, late = self.rss_mb[quarter : 2 * quarter], self.rss_mb[3 * quarter :]
        return statistics.median(late) - statistics.median(early)


async def run(rounds: int) -> list[Finding]:
    """Fill a database as the ledger does, and move it, twice at most: it takes a while."""
    with tempfile.TemporaryDirectory(prefix="galley-bench-") as folder:
        async with open_database(f"sqlite:///{folder}/galley.db") as database:
            await fill(database, await add_users(database.sessions))
        moves = [await _move(Path(folder)) for _ in range(min(rounds, 2))]
    what = "galley migrate, a million requests"
    return [
        below(what, [move.seconds for move in moves], "s"),
        above(what, [REQUESTS / move.seconds for move in moves], "rows/s", 10_000),
        below(f"{what}: most memory", [max(move.rss_mb) for move in moves], "MB", 200),
        below(f"{what}: growth", [move.growth_mb for move in moves], "MB", GROWTH_MB),
    ]


async def _move(folder: Path) -> Moved:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("GALLEY_")}
    environment["GALLEY_DATA_DIR"] = str(folder)
    with postgres() as url:
        command = [str(Path(sys.executable).with_name("galley")), "migrate", "--to", url, "--json"]
        began, rss_mb = time.perf_counter(), list[float]()
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE
        )
        watched = psutil.Process(process.pid)
        ended = asyncio.create_task(process.communicate())
        while not (await asyncio.wait([ended], timeout=LOOK_S))[0]:
            rss_mb.append(watched.memory_info().rss / 2**20)
        printed, _ = ended.result()
        seconds = time.perf_counter() - began
    tables = {table["name"]: table["rows"] for table in json.loads(printed)}
    assert tables["api_requests"] == REQUESTS, tables
    return Moved(seconds, rss_mb)


if __name__ == "__main__":
    main({"moving": run}, __doc__)
