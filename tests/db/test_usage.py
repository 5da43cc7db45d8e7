import asyncio
from datetime import timedelta

import pytest

from galley.db.ledger import Ledger
from galley.db.session import Database
from galley.db.tables import new_id, utc_now
from galley.db.usage import Usage, usage_of
from tests.records import finished, new_record

pytestmark = pytest.mark.anyio


async def test_usage_is_added_up_over_hours_endpoints_and_models(
    ledger: Ledger, database: Database
):
    alice, bob = new_id(), new_id()
    ends = [
        new_record(user_id=alice, created_at=utc_now() - timedelta(days=40)),
        new_record(user_id=alice),
        new_record(user_id=alice, endpoint="classify"),
        new_record(user_id=bob),
    ]
    await asyncio.gather(*(ledger.settle(finished(record, units=2)) for record in ends))
    await ledger.settle(finished(new_record(user_id=alice), state="failed", status=502))
    ledger.open(new_record(user_id=alice))
    await ledger.aclose()

    async with database.sessions() as session:
        used = await usage_of(session, user_id=alice)

    assert used == Usage(
        requests=4,
        successes=3,
        prompt_tokens=20,
        completion_tokens=28,
        units=6,
        response_time_ms=50.0,
        by_endpoint={"chat/completions": 3, "classify": 1},
    )


async def test_who_never_asked_has_used_nothing(database: Database):
    async with database.sessions() as session:
        used = await usage_of(session, user_id=new_id())

    assert used == Usage(0, 0, 0, 0, 0, 0.0, {})
