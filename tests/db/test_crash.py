"""What is left of a server that was killed while it answered."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from galley.db.requests import interrupt_open
from galley.db.session import open_database
from tests.records import stored_requests, stored_sums

pytestmark = pytest.mark.anyio

SETTLE_FOREVER = Path(__file__).with_name("settle_forever.py")
ENOUGH = 2000


def kill_while_settling(url: str) -> list[str]:
    """Run a ledger under load, kill it, and return the ids that it had told were recorded."""
    with subprocess.Popen(
        [sys.executable, SETTLE_FOREVER, url], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        told = [server.stdout.readline().strip() for _ in range(ENOUGH)]
        server.kill()
        told += [line.strip() for line in server.stdout]
    return told


async def test_after_kill_9_every_answered_request_is_recorded(database_url: str):
    told = kill_while_settling(database_url)

    async with open_database(database_url) as database:
        states = {row.request_id: row.state for row in await stored_requests(database)}
        booked = sum(total.requests for total in await stored_sums(database))
    assert len(told) >= ENOUGH
    assert Counter(states.get(request_id) for request_id in told) == {"completed": len(told)}
    assert booked == Counter(states.values())["completed"]


async def test_after_kill_9_what_was_still_open_is_marked_at_the_next_start(database_url: str):
    kill_while_settling(database_url)

    async with open_database(database_url) as database:
        async with database.sessions.begin() as session:
            marked = await interrupt_open(session, instance_id="next-server")
        states = Counter(row.state for row in await stored_requests(database))
    assert marked > 0
    assert states["interrupted"] == marked
    assert set(states) == {"completed", "interrupted"}
