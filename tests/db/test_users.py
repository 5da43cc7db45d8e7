import pytest
from sqlalchemy.exc import IntegrityError

from galley.db.session import Database
from galley.db.users import create_user, first_admin
from tests.records import count_users

pytestmark = pytest.mark.anyio


async def test_users_are_counted(database: Database):
    async with database.sessions.begin() as session:
        before = await count_users(session)
        await create_user(session, email="a@example.org", name="A")
        await create_user(session, email="b@example.org", name="B")

        after = await count_users(session)

    assert (before, after) == (0, 2)


async def test_an_address_belongs_to_one_user(database: Database):
    async with database.sessions() as session:
        await create_user(session, email="a@example.org", name="A")

        with pytest.raises(IntegrityError):
            await create_user(session, email="a@example.org", name="Another")


async def test_the_first_admin_is_the_oldest_and_no_ordinary_user(database: Database):
    async with database.sessions.begin() as session:
        assert await first_admin(session) is None
        await create_user(session, email="a@example.org", name="A")
        admin = await create_user(session, email="b@example.org", name="B", is_admin=True)
        await create_user(session, email="c@example.org", name="C", is_admin=True)

        found = await first_admin(session)

    assert found is admin
