"""How many requests PostgreSQL takes down per second, of 64 callers who each wait for their commit.

They share commits through the ledger's writer; beside it, each row is an insert of its own with a
commit of its own, on as many connections as the pool has. Both wait for the disk.

python -m benchmarks.ledger
"""

import asyncio
import time
from functools import partial

from benchmarks.findings import Finding, Run, above, below, faster, take_turns
from benchmarks.main import main
from benchmarks.postgres import postgres
from galley.db.ledger import Ledger
from galley.db.ledger_postgres import PostgresWriter
from galley.db.months import look_ahead
from galley.db.record import Record
from galley.db.session import Database, open_database
from galley.db.tables import new_id, utc_now

CALLERS = 64
POOL = 15  # SQLAlchemy's, with its overflow
USERS = 500
SECONDS = 4.0
AT_LEAST = 8_000.0


async def run(rounds: int) -> list[Finding]:
    """Settle requests as fast as they are written, in turns."""
    users = [(new_id(), new_id()) for _ in range(USERS)]
    batches: list[float] = []
    with postgres() as url:
        async with open_database(url) as database:
            async with database.sessions.begin() as session:
                await look_ahead(session, now=utc_now())
            runs: dict[str, Run] = {
                "galley": partial(_grouped, database, users, batches),
                "a commit for each": partial(_one_by_one, database, users),
            }
            turns = await take_turns(runs, rounds)
    what = f"ledger on PostgreSQL, {CALLERS} callers"
    return [
        above(what, turns["galley"], "rows/s", AT_LEAST),
        faster(what, turns, "rows/s", than="a commit for each"),
        below(f"{what}, rows in a commit", batches, "rows"),
    ]


def _record(user: tuple[str, str]) -> Record:
    return Record(
        request_id=new_id(),
        instance_id=user[0],
        user_id=user[0],
        key_id=user[1],
        endpoint="chat/completions",
        model="galley/chat",
        served_model="smollm2-135m-instruct",
        status=200,
        receipt=b'{"limits":[],"attempts":[{"model":"smollm2-135m-instruct","ms":12.5}]}',
    )


async def _grouped(database: Database, users: list[tuple[str, str]], batches: list[float]) -> float:
    """Rows per second through the ledger: opened at the door, and settled."""
    commits = 0

    def count(_: float, __: bool) -> None:
        nonlocal commits
        commits += 1

    ledger = Ledger(database, count)
    done, began = 0, time.perf_counter()

    async def caller(number: int) -> None:
        nonlocal done
        while time.perf_counter() < began + SECONDS:
            record = _record(users[number % USERS])
            ledger.open(record)
            record.state, record.prompt_tokens, record.completion_tokens = "completed", 100, 80
            record.response_time_ms = 12.5
            await ledger.settle(record)
            number += CALLERS
            done += 1

    await asyncio.gather(*map(caller, range(CALLERS)))
    seconds = time.perf_counter() - began
    await ledger.aclose()
    batches.append(done / commits)
    return done / seconds


async def _one_by_one(database: Database, users: list[tuple[str, str]]) -> float:
    """Rows per second where each is written by itself, sums and all."""
    done, began = 0, time.perf_counter()

    async def connection(number: int) -> None:
        nonlocal done
        writer = PostgresWriter(database.engine)
        while time.perf_counter() < began + SECONDS:
            record = _record(users[number % USERS])
            record.state = "completed"
            written = asyncio.get_running_loop().create_future()
            writer.write([record.row()], written.set_result)
            assert await written is None
            number += POOL
            done += 1
        await writer.aclose()

    await asyncio.gather(*map(connection, range(POOL)))
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main({"ledger": run}, __doc__)
