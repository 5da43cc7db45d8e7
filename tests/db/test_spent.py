"""What the ledger says of limits."""

from datetime import UTC, datetime, timedelta

import pytest

from galley.core.limits import Counter, Metric
from galley.db.ledger import Ledger
from galley.db.session import Database
from galley.db.spent import spent, used
from galley.db.tables import new_id
from tests.records import finished, new_record

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("endpoint", "metric"),
    [
        ("classify", "images"),
        ("chat/completions", "images"),
        ("messages/count_tokens", "images"),
        ("embeddings", "texts"),
        ("rerank", "texts"),
        ("moderations", "texts"),
        ("documents", "texts"),
        ("retrieve", "texts"),
    ],
)
async def test_units_are_pictures_but_for_texts_that_are_embedded_or_ranked(
    ledger: Ledger, database: Database, endpoint: str, metric: Metric
) -> None:
    record = finished(new_record(user_id=new_id(), endpoint=endpoint, created_at=NOON), units=3)
    await ledger.settle(record)
    told: dict[Metric, int] = {}

    async with database.sessions() as session:
        for asked in ("images", "texts"):
            counter = Counter(f"user:{record.user_id}", asked, "day")
            told[asked] = await spent(session, counter, NOON - timedelta(hours=12))

    others: Metric = "texts" if metric == "images" else "images"
    assert told == {metric: 3, others: 0}
    assert used(record).get(metric) == 3
    assert others not in used(record)
