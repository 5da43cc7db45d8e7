"""What the database adds up of experiments, held to the same worked out by hand."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from galley.db.experiments import Clustered, arm_quantiles, arm_sums
from galley.db.feedback import put_feedback
from galley.db.ledger import Ledger
from galley.db.record import Record
from galley.db.session import Database, open_database
from galley.db.tables import new_id
from tests.records import finished, id_at, new_record

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=1)
ONE: dict[str, Any] = {"arm": "big", "user": new_id()}


def drawn(arm: str | None, user: str, *, at: datetime = NOW, **fields: Any) -> Record:
    """A request to the route `smart` whose user was drawn `arm`."""
    record = new_record(user_id=user, request_id=id_at(at), created_at=at)
    return finished(record, **{"route": "smart", "arm": arm, "cost": 10} | fields)


async def settled(ledger: Ledger, *records: Record) -> Sequence[Record]:
    await asyncio.gather(*map(ledger.settle, records))
    return records


def clustered(values: Mapping[str, Sequence[float]]) -> Clustered:
    """The same sums, of each user's values."""
    sums = [(sum(own), len(own)) for own in values.values() if own]
    return Clustered(
        count=sum(n for _, n in sums),
        users=len(sums),
        total=sum(s for s, _ in sums),
        squares=sum(s * s for s, _ in sums),
        products=sum(s * n for s, n in sums),
        counts=sum(n * n for _, n in sums),
    )


async def test_every_sum_is_that_of_the_users_of_a_target(
    ledger: Ledger, database: Database
) -> None:
    ada, bob, eve = new_id(), new_id(), new_id()
    of_ada = await settled(
        ledger,
        drawn("big", ada, response_time_ms=10.0, cost=3_000_000_000),
        drawn("big", ada, response_time_ms=20.0),
        drawn("big", ada, state="failed", status=502, response_time_ms=99.0),
    )
    await settled(
        ledger,
        drawn("big", bob, response_time_ms=40.0),
        drawn("big", bob, state="cancelled", status=499, response_time_ms=98.0),
        drawn("small", eve, response_time_ms=5.0),
    )
    async with database.sessions.begin() as session:
        await put_feedback(
            session, request_id=of_ada[0].request_id, score=-0.5, comment=None, now=NOW
        )

    async with database.sessions() as session:
        looked_at, found = await arm_sums(session, route="smart", since=BEFORE)

    assert looked_at == 6
    big, small = found["big"], found["small"]
    assert (big.requests, big.prompt_tokens, big.completion_tokens) == (5, 25, 35)
    assert big.failed == clustered({"ada": [0, 0, 1], "bob": [0, 0]})
    assert big.latency_ms == clustered({"ada": [10, 20], "bob": [40]})
    assert big.cost == clustered({"ada": [3e9, 10, 10], "bob": [10, 10]})
    assert big.score == clustered({"ada": [-0.5], "bob": []})
    assert small.requests == small.latency_ms.users == 1
    assert small.score == Clustered()


@pytest.mark.parametrize(
    "fields",
    [
        {"route": "other"},
        {"arm": None},
        {"state": "refused", "status": 429},
        {"state": "refused", "status": 400},
        {"state": "interrupted", "status": None},
        {"cache": "exact"},
        {"endpoint": "count_tokens"},
        {"at": BEFORE - timedelta(seconds=1)},
    ],
    ids=str,
)
async def test_what_says_nothing_of_a_model_is_left_out(
    fields: dict[str, Any], ledger: Ledger, database: Database
) -> None:
    await settled(ledger, drawn(**ONE | fields))

    async with database.sessions() as session:
        _, found = await arm_sums(session, route="smart", since=BEFORE)
        times = await arm_quantiles(session, route="smart", since=BEFORE, of="latency_ms")

    assert (found, times) == ({}, {})


async def test_a_server_that_was_not_even_asked_for_its_failures_is_an_error(
    ledger: Ledger, database: Database
) -> None:
    await settled(ledger, drawn("big", new_id(), state="refused", status=503))

    async with database.sessions() as session:
        _, found = await arm_sums(session, route="smart", since=BEFORE)

    assert (found["big"].requests, found["big"].failed.total) == (1, 1.0)


@pytest.mark.parametrize(
    ("count", "p50", "p95"), [(1, 1, 1), (2, 1, 2), (20, 10, 19), (99, 50, 95)]
)
async def test_quantiles_are_times_that_were_measured(
    count: int, p50: float, p95: float, ledger: Ledger, database: Database
) -> None:
    times = [float(1 + 7 * n % count) for n in range(count)]  # in no order
    await settled(
        ledger,
        *(drawn("big", new_id(), response_time_ms=ms, first_token_ms=ms / 2) for ms in times),
        drawn("small", new_id(), response_time_ms=7.0),
    )

    async with database.sessions() as session:
        whole = await arm_quantiles(session, route="smart", since=BEFORE, of="latency_ms")
        first = await arm_quantiles(session, route="smart", since=BEFORE, of="first_token_ms")

    assert (whole["big"].p50, whole["big"].p95) == (p50, p95)
    assert (first["big"].p50, first["big"].p95) == (p50 / 2, p95 / 2)
    assert (whole["small"].p50, whole["small"].p95) == (7.0, 7.0)
    assert "small" not in first


async def test_a_routes_requests_are_found_by_their_index(sqlite_url: str) -> None:
    asked: list[tuple[str, Any]] = []

    def listen(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.append((statement, parameters))

    async with open_database(sqlite_url) as database:
        assert database.path
        event.listen(database.engine.sync_engine, "before_cursor_execute", listen)
        async with database.sessions() as session:
            await arm_sums(session, route="smart", since=BEFORE)
            await arm_quantiles(session, route="smart", since=BEFORE, of="latency_ms")
        queries = [query for query in asked if "api_requests" in query[0]]
        with closing(sqlite3.connect(database.path)) as connection:
            plans = [
                [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
                for statement, given in queries
            ]

    assert len(plans) == 3
    index = "api_requests USING INDEX ix_api_requests_drawn (route=? AND request_id>?)"
    for plan in plans:
        assert [step for step in plan if "api_requests" in step] == [f"SEARCH {index}"]
