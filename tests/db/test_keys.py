import pytest
from sqlalchemy.exc import IntegrityError

from galley.core.caller import Caller
from galley.core.security import hash_key, make_key
from galley.db.keys import create_key, find_caller, is_known, revoke_key
from galley.db.session import Database
from galley.db.tables import ApiKey
from galley.db.users import create_user

pytestmark = pytest.mark.anyio


async def add_key(database: Database, key: str, email: str = "a@example.org") -> ApiKey:
    async with database.sessions.begin() as session:
        user = await create_user(session, email=email, name="A")
        return await create_key(session, user_id=user.id, name="laptop", key=key)


async def caller_of(database: Database, key: str) -> Caller | None:
    async with database.sessions() as session:
        return await find_caller(session, hash_key(key))


async def test_of_a_key_only_the_hash_and_a_few_characters_are_kept(database: Database):
    key = make_key()

    row = await add_key(database, key)

    async with database.sessions() as session:
        stored = await session.get_one(ApiKey, row.id)
    assert (stored.hash, stored.prefix, stored.last_four) == (hash_key(key), key[:7], key[-4:])
    assert len(stored.hash) == 32
    assert not any(key[3:] in str(value) for value in vars(stored).values())


async def test_a_key_finds_its_caller(database: Database):
    key = make_key()

    row = await add_key(database, key)

    assert await caller_of(database, key) == Caller(user_id=row.user_id, key_id=row.id)
    assert await caller_of(database, make_key()) is None


async def test_a_revoked_key_finds_nobody_but_stays_known(database: Database):
    key = make_key()
    row = await add_key(database, key)

    async with database.sessions.begin() as session:
        first = await revoke_key(session, user_id=row.user_id, key_id=row.id)
        second = await revoke_key(session, user_id=row.user_id, key_id=row.id)

    assert (first, second) == (True, False)
    assert await caller_of(database, key) is None
    async with database.sessions() as session:
        assert await is_known(session, hash_key(key))
        assert not await is_known(session, hash_key(make_key()))


@pytest.mark.parametrize("key_id", [None, "not-an-id", "01a1fd33-e42c-747a-b197-95c773960ce5"])
async def test_nobody_revokes_what_is_not_theirs(database: Database, key_id: str | None):
    key = make_key()
    row = await add_key(database, key)
    other = await add_key(database, make_key(), email="b@example.org")

    async with database.sessions.begin() as session:
        revoked = await revoke_key(session, user_id=other.user_id, key_id=key_id or row.id)

    assert not revoked
    assert await caller_of(database, key) is not None


async def test_a_key_is_stored_once(database: Database):
    key = make_key()
    await add_key(database, key)

    with pytest.raises(IntegrityError):
        await add_key(database, key, email="b@example.org")
