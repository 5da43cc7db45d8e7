"""Keys are looked up together, and each gets its own answer."""

import asyncio

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError

from galley.core.security import hash_key, make_key
from galley.db.engine import make_engine, parse_url
from galley.db.keys import create_key
from galley.db.session import Database, Sessions
from galley.db.users import create_user
from galley.services.holders import AT_ONCE, STRANGE_S, Holders

pytestmark = pytest.mark.anyio


@pytest.fixture
async def keys(database: Database) -> list[str]:
    """Keys of a user each."""
    made = [make_key() for _ in range(3)]
    async with database.sessions.begin() as session:
        for n, key in enumerate(made):
            user = await create_user(session, email=f"{n}@example.org", name=f"User {n}")
            await create_key(session, user_id=user.id, name="first", key=key)
    return made


class Queries:
    """Counts what is asked of a database."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        event.listen(database.engine.sync_engine, "begin", self._note)

    def _note(self, _: Connection) -> None:
        self.count += 1


async def email_of(holders: Holders, key: str) -> str | None:
    found = await holders.find(hash_key(key))
    return found[1].email if found else None


async def test_a_crowd_is_answered_one_by_one_and_asked_for_together(
    database: Database, keys: list[str]
):
    holders, queries = Holders(database.sessions), Queries(database)
    strangers = [make_key() for _ in range(AT_ONCE)]

    found = await asyncio.gather(
        *(email_of(holders, key) for key in [*keys, *strangers, *keys[:1]])
    )

    assert found == ["0@example.org", "1@example.org", "2@example.org", *[None] * AT_ONCE, found[0]]
    assert queries.count == 2  # as many as fit, and the rest


async def test_who_comes_while_a_query_runs_is_answered_by_the_next_one(
    database: Database, keys: list[str]
):
    holders = Holders(database.sessions)
    first = asyncio.create_task(email_of(holders, keys[0]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    second = await email_of(holders, keys[0])

    assert (await first, second) == ("0@example.org", "0@example.org")


async def test_a_key_that_is_nobodys_is_looked_for_again_after_a_while_or_when_something_changed(
    database: Database, keys: list[str]
):
    now = 1000.0
    holders, queries = Holders(database.sessions, lambda: now), Queries(database)
    counts: list[int] = []

    async def ask(key: str) -> None:
        await email_of(holders, key)
        counts.append(queries.count)

    stranger = make_key()
    await ask(stranger)
    await ask(stranger)
    await ask(keys[0])
    await ask(keys[0])  # whoever is found is looked up as often as is asked
    now += STRANGE_S
    await ask(stranger)
    holders.forget()
    await ask(stranger)

    assert counts == [1, 1, 2, 3, 4, 5]


async def test_what_was_seen_before_something_changed_is_not_remembered(
    database: Database, keys: list[str]
):
    holders, queries, stranger = Holders(database.sessions), Queries(database), make_key()
    asked = asyncio.create_task(email_of(holders, stranger))
    while not queries.count:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)

    holders.forget()
    await asked
    await email_of(holders, stranger)

    assert queries.count == 2


async def test_one_who_hangs_up_takes_nobody_with_them(database: Database, keys: list[str]):
    holders = Holders(database.sessions)
    gone, stays = (asyncio.create_task(email_of(holders, keys[0])) for _ in range(2))
    await asyncio.sleep(0)

    gone.cancel()

    assert await stays == "0@example.org"


async def test_a_database_that_is_away_fails_those_who_ask_and_nobody_later(
    database: Database, keys: list[str]
):
    nowhere = make_engine(parse_url("postgresql://nobody@127.0.0.1:1/none"))
    holders = Holders(Sessions(nowhere))

    failed = await asyncio.gather(*(email_of(holders, key) for key in keys), return_exceptions=True)
    again = await asyncio.gather(email_of(holders, keys[0]), return_exceptions=True)
    await nowhere.dispose()

    assert [isinstance(error, (OSError, SQLAlchemyError)) for error in failed] == [True] * 3
    assert isinstance(again[0], (OSError, SQLAlchemyError))
