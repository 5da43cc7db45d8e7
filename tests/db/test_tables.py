from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy.exc import StatementError

from galley.db.session import Database
from galley.db.tables import User, new_id
from galley.db.users import create_user

pytestmark = pytest.mark.anyio


async def stored_moment(database: Database, moment: datetime) -> datetime:
    async with database.sessions.begin() as session:
        user = User(email="a@example.org", name="A", created_at=moment)
        session.add(user)
    async with database.sessions() as session:
        return (await session.get_one(User, user.id)).created_at


async def test_a_time_comes_back_aware_and_in_utc(database: Database):
    tokyo = timezone(timedelta(hours=9))

    stored = await stored_moment(database, datetime(2026, 5, 4, 3, 2, 1, 123456, tokyo))

    assert stored == datetime(2026, 5, 3, 18, 2, 1, 123456, UTC)
    assert stored.utcoffset() == timedelta(0)


async def test_a_time_without_a_zone_is_refused(database: Database):
    with pytest.raises(StatementError, match="without a time zone"):
        await stored_moment(database, datetime(2026, 5, 4))  # noqa: DTZ001 - that is the point


async def test_ids_are_text_of_36_characters_in_order_of_time(database: Database):
    ids = [new_id() for _ in range(1000)]
    async with database.sessions.begin() as session:
        user = await create_user(session, email="a@example.org", name="A")

    assert ids == sorted(ids)
    assert {len(made) for made in [*ids, user.id]} == {36}
    async with database.sessions() as session:
        assert (await session.get_one(User, user.id)).id == user.id
