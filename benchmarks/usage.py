"""What usage costs to ask for, and to keep: a million requests on SQLite, ten on PostgreSQL.

Those on SQLite are written by the ledger; those on PostgreSQL are made up by PostgreSQL itself, the
same installation after ten times as long.

python -m benchmarks.usage
"""

import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks.findings import Finding, below
from benchmarks.main import main
from benchmarks.postgres import postgres
from benchmarks.usage_postgres import fill_postgresql
from galley.core.caller import Caller
from galley.db.ledger import Ledger
from galley.db.record import Record
from galley.db.requests import Wanted, first_id
from galley.db.session import Database, Sessions, open_database
from galley.db.tables import User, new_id
from galley.services.books import Books
from galley.services.invoices import Invoices
from galley.services.usage import UsageService

REQUESTS = 1_000_000
USERS, DAYS = 100, 30
MODELS = {
    "smollm2-135m-instruct": "chat",
    "qwen2.5-1.5b": "chat",
    "llama-3.3-70b": "chat",
    "all-minilm-l6-v2": "embeddings",
    "efficientnet-lite0": "classify",
}
BATCH = 10_000
MS = 1e-3
START = datetime(2026, 10, 1, tzinfo=UTC)


async def run(rounds: int) -> list[Finding]:
    """Fill both databases, and ask what users and admins ask."""
    return await _on_sqlite(rounds) + await _on_postgresql(rounds)


async def _on_sqlite(rounds: int) -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="galley-bench-") as folder:
        path = Path(folder, "galley.db")
        async with open_database(f"sqlite:///{path}") as database:
            user_ids = await add_users(database.sessions)
            await fill(database, user_ids)
            row, sums = _bytes_on_disk(path)
            findings = [*_sizes("usage", row, sums, 300)]
            findings += await _ask("usage", database, user_ids[0], 20 * rounds, 20)
            took = await _time(Books(database.sessions).audit)
            return [*findings, below("galley audit", [took], "s")]


async def _on_postgresql(rounds: int) -> list[Finding]:
    with postgres() as url:
        async with open_database(url) as database:
            user_ids = await add_users(database.sessions)
            row, sums = await fill_postgresql(
                database, user_ids, MODELS, until=START + timedelta(days=DAYS)
            )
            what = "usage of 10 million"
            findings = [*_sizes(what, row, sums)]
            return findings + await _ask(what, database, user_ids[0], 20 * rounds, 50)


def _sizes(what: str, row: float, sums: float, limit: float | None = None) -> list[Finding]:
    return [
        below(f"{what}: a row of api_requests on disk, with its indexes", [row], "bytes", limit),
        below(f"{what}: sums by hour and day on disk, per request", [sums], "bytes"),
    ]


async def _ask(
    what: str, database: Database, user_id: str, times: int, limit: float
) -> list[Finding]:
    usage, invoices = UsageService(database.sessions), Invoices(database.sessions)
    caller = Caller(user_id=user_id)
    span = {"first": START.date(), "last": (START + timedelta(days=DAYS)).date()}
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "/v1/usage": partial(usage.summary, caller),
        "/v1/usage, by day": partial(usage.summary, caller, **span, by="day"),
        "/v1/admin/usage": usage.everyones,
        "/v1/admin/usage, by user": partial(usage.everyones, **span, by="user"),
        "/v1/admin/usage, by user, ever": partial(usage.everyones, by="user"),
        "/v1/admin/usage, by tier": partial(usage.everyones, **span, by="tier"),
        "/v1/requests": partial(usage.requests, caller, Wanted()),
        "/v1/requests, of a state that none has": partial(
            usage.requests, caller, Wanted(state="failed")
        ),
        "/v1/invoices/{month}": partial(invoices.of, user_id, "2026-10"),
    }
    findings: list[Finding] = []
    for name, ask in asked.items():
        took = [await _time(ask) for _ in range(times + 1)]
        findings.append(below(f"{what}: {name}", [s / MS for s in took[1:]], "ms", limit))
    return findings


async def _time(ask: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await ask()
    return time.perf_counter() - began


async def add_users(sessions: Sessions) -> list[str]:
    """Add those who ask, half of them in each of two tiers; return their ids."""
    users = [
        User(email=f"user{n}@example.org", name=f"User {n}", tier=("free", "premium")[n % 2])
        for n in range(USERS)
    ]
    async with sessions.begin() as session:
        session.add_all(users)
    return [user.id for user in users]


async def fill(database: Database, user_ids: list[str]) -> None:
    """Settle requests in batches, as if they had come all at once."""
    ledger = Ledger(database)
    requests = _requests(user_ids)
    while batch := list(islice(requests, BATCH)):
        await asyncio.gather(*(ledger.settle(record) for record in batch))
    await ledger.aclose()


def _requests(user_ids: list[str]) -> Iterator[Record]:
    """Requests around the clock, for every user as many of every model."""
    rng = random.Random(1)  # noqa: S311 - the same ones on every run
    keys = {user_id: (new_id(), new_id()) for user_id in user_ids}
    instance_id, names = new_id(), list(MODELS)
    for n in range(REQUESTS):
        at = START + timedelta(days=DAYS) * (n / REQUESTS)
        user_id, model = rng.choice(user_ids), rng.choice(names)
        chats = MODELS[model] == "chat"
        milliseconds = rng.random() * 1000
        yield Record(
            request_id=first_id(at)[:14] + new_id()[14:],
            client_request_id=None,
            instance_id=instance_id,
            user_id=user_id,
            key_id=keys[user_id][rng.random() < 0.2],
            endpoint=MODELS[model],
            state="completed" if rng.random() < 0.98 else "refused",
            model=model,
            served_model=model,
            stream=chats,
            status=200,
            prompt_tokens=rng.randrange(2_000),
            completion_tokens=rng.randrange(500) if chats else 0,
            units=0 if chats else 1,
            first_token_ms=milliseconds / 4 if chats else None,
            response_time_ms=milliseconds,
            created_at=at,
        )


def _bytes_on_disk(path: Path) -> tuple[float, float]:
    """What the ledger's table takes with its indexes, and what both tables of sums do."""
    with closing(sqlite3.connect(path)) as connection:
        sizes = dict(
            connection.execute(
                "SELECT m.tbl_name, sum(s.pgsize) FROM dbstat s JOIN sqlite_schema m"
                " ON m.name = s.name GROUP BY m.tbl_name"
            )
        )
    sums = sizes["usage_hourly"] + sizes["usage_daily"]
    return sizes["api_requests"] / REQUESTS, sums / REQUESTS


if __name__ == "__main__":
    main({"usage": run}, __doc__)
