"""Responses that are kept belong to their owner alone."""

from datetime import UTC, datetime, timedelta

import pytest

from galley.db.responses import (
    delete_response,
    delete_responses,
    find_body,
    find_items,
    put_response,
)
from galley.db.session import Database
from galley.db.tables import StoredResponse, new_id
from galley.db.users import create_user
from tests.records import id_at

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


async def add_user(database: Database, email: str) -> str:
    async with database.sessions.begin() as session:
        return (await create_user(session, email=email, name="A")).id


async def keep(database: Database, user_id: str, response_id: str | None = None) -> str:
    row = StoredResponse(
        id=response_id or new_id(), user_id=user_id, body=b'{"a":"\\u0000"}', items=b"[]"
    )
    async with database.sessions.begin() as session:
        await put_response(session, row)
    return row.id


async def body_of(database: Database, user_id: str, response_id: str) -> bytes | None:
    async with database.sessions() as session:
        return await find_body(session, user_id=user_id, response_id=response_id)


async def test_a_response_is_found_as_it_was_kept(database: Database) -> None:
    ada = await add_user(database, "ada@example.org")
    response = await keep(database, ada)

    async with database.sessions() as session:
        items = await find_items(session, user_id=ada, response_id=response)

    assert await body_of(database, ada, response) == b'{"a":"\\u0000"}'
    assert items == b"[]"


async def test_a_response_of_someone_else_is_neither_found_nor_deleted(
    database: Database,
) -> None:
    ada = await add_user(database, "ada@example.org")
    eve = await add_user(database, "eve@example.org")
    response = await keep(database, ada)

    async with database.sessions.begin() as session:
        gone = await delete_response(session, user_id=eve, response_id=response)
        items = await find_items(session, user_id=eve, response_id=response)

    assert (gone, items, await body_of(database, eve, response)) == (False, None, None)
    assert await body_of(database, ada, response) is not None


async def test_a_response_is_deleted_once(database: Database) -> None:
    ada = await add_user(database, "ada@example.org")
    response = await keep(database, ada)

    gone: list[bool] = []
    for _ in range(2):
        async with database.sessions.begin() as session:
            gone.append(await delete_response(session, user_id=ada, response_id=response))

    assert gone == [True, False]


async def test_old_responses_are_deleted_so_many_at_a_time_the_oldest_first(
    database: Database,
) -> None:
    ada = await add_user(database, "ada@example.org")
    times = [NOW - timedelta(days=9), NOW - timedelta(days=8), NOW]
    ids = [await keep(database, ada, id_at(time)) for time in times]

    async with database.sessions.begin() as session:
        first = await delete_responses(session, before=NOW - timedelta(days=7), limit=1)
    left = [await body_of(database, ada, response) is not None for response in ids]
    async with database.sessions.begin() as session:
        rest = await delete_responses(session, before=NOW - timedelta(days=7), limit=9)

    assert (first, rest) == (1, 1)
    assert left == [False, True, True]
    assert await body_of(database, ada, ids[2]) is not None
