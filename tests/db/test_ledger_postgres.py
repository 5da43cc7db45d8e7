import asyncio
from collections.abc import AsyncGenerator

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from galley.core.errors import OverloadedError
from galley.db.ledger import Ledger
from galley.db.session import Database, open_database
from galley.db.tables import new_id
from tests.records import finished, new_record, stored_requests, stored_sums

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(postgresql_url_at_head: str) -> AsyncGenerator[Database]:
    async with open_database(postgresql_url_at_head) as database:
        yield database


async def run(database: Database, *statements: str) -> None:
    async with database.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_failed_commit_is_told_to_those_who_wait_and_the_next_one_works(
    ledger: Ledger, database: Database
):
    await run(
        database,
        "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$",
        "CREATE TRIGGER t BEFORE INSERT ON api_requests EXECUTE FUNCTION disk_full()",
    )

    with capture_logs() as logs:
        answers = await asyncio.gather(
            *(ledger.settle(finished(new_record())) for _ in range(3)), return_exceptions=True
        )
    await run(database, "DROP TRIGGER t ON api_requests")
    await ledger.settle(finished(new_record()))

    for answer in answers:
        assert isinstance(answer, OverloadedError)
        assert (answer.code, answer.retry_after) == ("ledger_unavailable", 1.0)
    assert [(line["event"], line["rows"]) for line in logs] == [("ledger_commit_failed", 3)]
    assert len(await stored_requests(database)) == 1


async def test_the_ledger_survives_a_restart_of_the_database(ledger: Ledger, database: Database):
    await ledger.settle(finished(new_record()))
    async with open_database(database.engine.url.render_as_string(hide_password=False)) as other:
        await run(
            other,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

    await ledger.settle(finished(new_record()))

    assert len(await stored_requests(database)) == 2


async def test_a_batch_is_one_transaction_whatever_its_size(ledger: Ledger, database: Database):
    await asyncio.gather(*(ledger.settle(finished(new_record())) for _ in range(2000)))

    async with database.engine.connect() as connection:
        transactions = await connection.scalar(
            text("SELECT count(DISTINCT xmin::text) FROM api_requests")
        )
    assert transactions == 1


async def test_servers_that_book_for_the_same_users_do_not_deadlock(
    ledger: Ledger, database: Database
):
    users, other = [new_id() for _ in range(2000)], Ledger(database)

    for _ in range(5):
        await asyncio.gather(
            *(ledger.settle(finished(new_record(user_id=user))) for user in users),
            *(other.settle(finished(new_record(user_id=user))) for user in reversed(users)),
        )
    await other.aclose()

    assert sum(total.requests for total in await stored_sums(database)) == 5 * 2 * len(users)
