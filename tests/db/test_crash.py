"""What is left of a server that was killed while it answered."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from galley.db.requests import interrupt_open
from galley.db.session import open_database
from galley.db.tables import new_id
from tests.records import stored_requests, stored_sums

pytestmark = pytest.mark.anyio

SETTLE_FOREVER = Path(__file__).with_name("settle_forever.py")
ENOUGH = 2000


def kill_while_settling(url: str, after_s: float = 0.0) -> list[str]:
    """Run a ledger under load, kill it, and return the ids that it had told were recorded."""
    with subprocess.Popen(
        [sys.executable, SETTLE_FOREVER, url], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        told = [server.stdout.readline().strip() for _ in range(ENOUGH)]
        time.sleep(after_s)
        server.kill()
        told += [line.strip() for line in server.stdout]
    return told


# An id is printed just after a commit: without a pause, hardly a kill would fall into one.
@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.007, 0.011])
async def test_after_kill_9_every_answered_request_is_recorded(
    database_url_at_head: str, after_s: float
):
    told = kill_while_settling(database_url_at_head, after_s)

    async with open_database(database_url_at_head) as database:
        states = {row.request_id: row.state for row in await stored_requests(database)}
        booked = sum(total.requests for total in await stored_sums(database))
    assert len(told) >= ENOUGH
    assert Counter(states.get(request_id) for request_id in told) == {"completed": len(told)}
    assert booked == Counter(states.values())["completed"]


async def test_after_kill_9_what_was_still_open_is_marked_at_the_next_start(
    database_url_at_head: str,
):
    kill_while_settling(database_url_at_head)

    async with open_database(database_url_at_head) as database:
        async with database.sessions.begin() as session:
            marked = await interrupt_open(session, but=[new_id()])
        rows = await stored_requests(database)
    assert [row.state for row in rows if row.endpoint == "lasting"] == ["interrupted"]
    assert Counter(row.state for row in rows)["interrupted"] == marked
    assert {row.state for row in rows} == {"completed", "interrupted"}
