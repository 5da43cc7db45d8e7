import asyncio
import gc
import resource
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from galley.core.errors import OverloadedError
from galley.db.ledger import OPEN_AFTER_S, Ledger
from galley.db.session import Database, open_database
from tests.records import finished, new_record, stored_requests

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(sqlite_url_at_head: str) -> AsyncGenerator[Database]:
    async with open_database(sqlite_url_at_head) as database:
        yield replace(database, busy_timeout_s=0.1)


@contextmanager
def locked(database: Database) -> Generator[None]:
    """Hold SQLite's write lock, as a backup tool might."""
    assert database.path
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full_disk(database: Database) -> Generator[None]:
    """Let no file grow beyond what the database's log has reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    reached = Path(f"{database.path}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (reached, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("trouble", [locked, full_disk])
async def test_a_failed_commit_is_told_to_those_who_wait_and_the_next_one_works(
    ledger: Ledger, database: Database, trouble: Any
):
    await ledger.settle(finished(new_record()))

    with trouble(database), capture_logs() as logs:
        answers = await asyncio.gather(
            *(ledger.settle(finished(new_record())) for _ in range(3)), return_exceptions=True
        )
    await ledger.settle(finished(new_record()))

    for answer in answers:
        assert isinstance(answer, OverloadedError)
        assert (answer.code, answer.retry_after) == ("ledger_unavailable", 1.0)
    assert [(line["event"], line["rows"]) for line in logs] == [("ledger_commit_failed", 3)]
    assert len(await stored_requests(database)) == 2


async def test_it_says_so_while_rows_wait_that_cannot_be_written(
    ledger: Ledger, database: Database
):
    healthy = ledger.problem
    with locked(database):
        ledger.close(finished(new_record(), state="refused", status=429))
        while ledger.problem is None:  # noqa: ASYNC110 - it is on another thread
            await asyncio.sleep(0.02)
        problem = ledger.problem
    await ledger.settle(finished(new_record()))

    assert (healthy, problem, ledger.problem) == (None, "cannot be written", None)
    assert len(await stored_requests(database)) == 2


async def test_a_failed_commit_that_nobody_waits_for_is_only_logged(
    ledger: Ledger, database: Database
):
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))

    with locked(database), capture_logs() as logs:
        ledger.settle(finished(new_record(), state="refused", status=429))
        await ledger.aclose()
    gc.collect()

    assert [line["event"] for line in logs] == ["ledger_commit_failed"]
    assert complaints == []


async def test_a_request_that_is_settled_soon_is_one_insert(ledger: Ledger, database: Database):
    assert database.path
    with closing(sqlite3.connect(database.path)) as connection:
        connection.executescript("""
            CREATE TABLE writes (kind);
            CREATE TRIGGER i AFTER INSERT ON api_requests BEGIN INSERT INTO writes VALUES (1); END;
            CREATE TRIGGER u AFTER UPDATE ON api_requests BEGIN INSERT INTO writes VALUES (2); END;
        """)
        quick, slow = new_record(), new_record()

        ledger.open(quick)
        ledger.open(slow)
        await ledger.settle(finished(quick))
        await asyncio.sleep(2 * OPEN_AFTER_S)
        await ledger.settle(finished(slow))

        writes = connection.execute("SELECT kind, count(*) FROM writes GROUP BY kind").fetchall()
    assert writes == [(1, 2), (2, 1)]


async def test_the_event_loop_runs_on_while_a_commit_waits(ledger: Ledger, database: Database):
    turns = 0

    with locked(database):
        settled = ledger.settle(finished(new_record()))
        while not settled.done():
            await asyncio.sleep(0.001)
            turns += 1

    assert isinstance(settled.exception(), OverloadedError)
    assert turns > 20


async def test_what_nobody_waits_for_is_written_as_soon_as_that_works(
    ledger: Ledger, database: Database
):
    with locked(database):
        ledger.close(finished(new_record(), state="refused", status=429))
        refused = ledger.settle(finished(new_record()))
        with pytest.raises(OverloadedError):
            await refused
    await ledger.settle(finished(new_record()))
    await asyncio.sleep(0)
    await ledger.aclose()

    states = [row.state for row in await stored_requests(database)]
    assert sorted(states) == ["completed", "refused"]
