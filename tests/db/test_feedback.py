from datetime import UTC, datetime

import pytest

from galley.db.feedback import find_feedback, put_feedback
from galley.db.session import Database
from galley.db.tables import new_id

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


async def test_the_latest_word_counts(database: Database) -> None:
    request_id = new_id()

    for score, comment in ((1.0, "good"), (-0.5, None)):
        async with database.sessions.begin() as session:
            await put_feedback(
                session, request_id=request_id, score=score, comment=comment, now=NOW
            )

    async with database.sessions() as session:
        found = await find_feedback(session, request_id)
        other = await find_feedback(session, new_id())
    assert found is not None
    assert (found.score, found.comment, found.created_at) == (-0.5, None, NOW)
    assert other is None
