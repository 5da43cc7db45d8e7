import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from galley.db.instances import beat, interrupt_dead, leave
from galley.db.ledger import OPEN_AFTER_S, Ledger
from galley.db.session import Database
from galley.db.tables import Instance, utc_now
from tests.records import DEAD_SERVER, THIS_SERVER, finished, new_record, stored_requests

pytestmark = pytest.mark.anyio

SILENT = timedelta(seconds=30)


async def open_two(ledger: Ledger) -> None:
    """Leave a request of each server open."""
    ledger.open(new_record(instance_id=DEAD_SERVER, prompt_tokens=1))
    ledger.open(new_record(instance_id=THIS_SERVER, prompt_tokens=2))
    await asyncio.sleep(2 * OPEN_AFTER_S)
    await ledger.settle(finished(new_record(instance_id=DEAD_SERVER), prompt_tokens=3))


async def states(database: Database) -> list[str]:
    return [row.state for row in await stored_requests(database)]


async def was_seen(database: Database, instance_id: str, ago: timedelta) -> None:
    """Leave the last sign of life of a server."""
    async with database.sessions.begin() as session:
        await session.merge(Instance(id=instance_id, seen_at=utc_now() - ago))


async def look(database: Database) -> int:
    async with database.sessions.begin() as session:
        await beat(session, instance_id=THIS_SERVER)
        return await interrupt_dead(session, silent=SILENT)


async def test_requests_of_another_server_that_lives_stay_open(ledger: Ledger, database: Database):
    await open_two(ledger)
    await was_seen(database, DEAD_SERVER, timedelta(seconds=20))

    assert await look(database) == 0

    assert await states(database) == ["open", "open", "completed"]


@pytest.mark.parametrize("ago", [None, timedelta(seconds=40)])
async def test_open_requests_of_a_server_without_a_sign_of_life_are_interrupted(
    ago: timedelta | None, ledger: Ledger, database: Database
):
    await open_two(ledger)
    if ago is not None:
        await was_seen(database, DEAD_SERVER, ago)

    assert await look(database) == 1

    assert await states(database) == ["interrupted", "open", "completed"]


async def test_a_server_that_said_goodbye_is_not_waited_for(ledger: Ledger, database: Database):
    await open_two(ledger)
    async with database.sessions.begin() as session:
        await beat(session, instance_id=DEAD_SERVER)
        await leave(session, instance_id=DEAD_SERVER)

    assert await look(database) == 1


async def test_the_dead_are_forgotten_and_a_server_taken_for_dead_comes_back(database: Database):
    await was_seen(database, DEAD_SERVER, timedelta(days=1))
    await was_seen(database, THIS_SERVER, timedelta(days=1))

    await look(database)

    async with database.sessions() as session:
        assert (await session.scalars(select(Instance.id))).all() == [THIS_SERVER]
