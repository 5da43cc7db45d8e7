from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from galley.core.security import hash_key, make_key
from galley.db.keys import create_key, find_holders, find_key, is_known
from galley.db.session import Database
from galley.db.tables import ApiKey, User, utc_now
from galley.db.users import create_user

pytestmark = pytest.mark.anyio


async def add_key(database: Database, key: str, email: str = "a@example.org") -> ApiKey:
    async with database.sessions.begin() as session:
        user = await create_user(session, email=email, name="A")
        return await create_key(session, user_id=user.id, name="laptop", key=key)


async def holder_of(database: Database, key: str, later: timedelta = timedelta()) -> str | None:
    """The id of the user whom `key` opens for, now or `later`."""
    async with database.sessions() as session:
        found = await find_holders(session, [hash_key(key)], now=utc_now() + later)
    return found[hash_key(key)][1].id if found else None


async def test_of_a_key_only_the_hash_and_a_few_characters_are_kept(database: Database):
    key = make_key()

    row = await add_key(database, key)

    async with database.sessions() as session:
        stored = await session.get_one(ApiKey, row.id)
    assert (stored.hash, stored.prefix, stored.last_four) == (hash_key(key), key[:7], key[-4:])
    assert len(stored.hash) == 32
    assert not any(key[3:] in str(value) for value in vars(stored).values())


async def test_a_key_finds_its_holder(database: Database):
    key = make_key()

    row = await add_key(database, key)

    assert await holder_of(database, key) == row.user_id
    assert await holder_of(database, make_key()) is None


async def test_a_key_opens_until_it_expires(database: Database):
    key = make_key()
    row = await add_key(database, key)
    async with database.sessions.begin() as session:
        (await session.get_one(ApiKey, row.id)).expires_at = utc_now() + timedelta(hours=1)

    assert await holder_of(database, key, timedelta(minutes=59)) == row.user_id
    assert await holder_of(database, key, timedelta(minutes=61)) is None


async def test_a_disabled_user_has_no_key_that_opens(database: Database):
    key = make_key()
    row = await add_key(database, key)

    async with database.sessions.begin() as session:
        (await session.get_one(User, row.user_id)).status = "disabled"

    assert await holder_of(database, key) is None


async def test_a_revoked_key_finds_nobody_but_stays_known(database: Database):
    key = make_key()
    row = await add_key(database, key)

    async with database.sessions.begin() as session:
        (await session.get_one(ApiKey, row.id)).revoked_at = utc_now()

    assert await holder_of(database, key) is None
    async with database.sessions() as session:
        assert await is_known(session, hash_key(key))
        assert not await is_known(session, hash_key(make_key()))


@pytest.mark.parametrize("key_id", [None, "not-an-id", "01a1fd33-e42c-747a-b197-95c773960ce5"])
async def test_nobody_finds_a_key_that_is_not_theirs(database: Database, key_id: str | None):
    row = await add_key(database, make_key())
    other = await add_key(database, make_key(), email="b@example.org")

    async with database.sessions() as session:
        found = await find_key(session, user_id=other.user_id, key_id=key_id or row.id)

    assert found is None


async def test_a_key_is_stored_once(database: Database):
    key = make_key()
    await add_key(database, key)

    with pytest.raises(IntegrityError):
        await add_key(database, key, email="b@example.org")
