"""kill -9 again and again, with limits in Redis: nothing lost, nothing twice, nothing held."""

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from galley.core.security import make_key
from galley.db.tables import id_bytes
from tests.cli.program import environment, run
from tests.faults.test_kill import load_of
from tests.node import galley_serve
from tests.redis_server import RedisServer

ROUNDS = 6
RELEASED_S = 60.0


@pytest.mark.slow
def test_six_rounds_of_kill_9_lose_nothing_bill_nothing_twice_and_hold_nothing(
    models_dir: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    key, redis = make_key(), {"GALLEY_REDIS_URL": redis_server.url}
    seen: list[str] = []
    limited = ""
    for _ in range(ROUNDS):
        with galley_serve(tmp_path, models_dir, key, **redis) as (url, pid):
            limited = limited or limited_key(url, key)
            with load_of(url, limited) as load:
                time.sleep(2)
                os.kill(pid, signal.SIGKILL)
            seen += load.whole

    with galley_serve(tmp_path, models_dir, key, **redis) as (url, _):
        waited = until_all_slots_are_free(url, limited)
    audit = run("audit", env=environment(tmp_path))

    with closing(sqlite3.connect(tmp_path / "galley.db")) as database:
        rows = dict(database.execute("SELECT request_id, state FROM api_requests"))
        booked = database.execute("SELECT sum(requests) FROM usage_hourly").fetchone()[0]
        settled = "SELECT count(*) FROM api_requests WHERE state NOT IN ('open', 'interrupted')"
        assert booked == database.execute(settled).fetchone()[0]
    assert len(seen) > 10 * ROUNDS
    assert len(seen) == len(set(seen))
    assert {rows.get(id_bytes(request_id)) for request_id in seen} == {"completed"}
    assert waited < RELEASED_S
    assert audit.returncode == 0, audit.stdout + audit.stderr


def limited_key(url: str, admin: str) -> str:
    """The key of a new user who may have six requests at a time."""
    headers = {"authorization": f"Bearer {admin}"}
    with httpx2.Client(base_url=url, headers=headers) as client:
        body = {"email": "a@example.org", "name": "A", "tier": "enterprise"}
        body |= {"limits": {"concurrency": 6}}
        user = client.post("/v1/admin/users", json=body).raise_for_status().json()
        made = client.post(f"/v1/admin/users/{user['id']}/keys", json={"name": "k"})
        return made.raise_for_status().json()["key"]


def until_all_slots_are_free(url: str, key: str) -> float:
    """Wait until six requests run at a time again; return how long that took, in seconds."""
    began = time.monotonic()
    while time.monotonic() - began < RELEASED_S:
        with load_of(url, key) as load:
            time.sleep(1)
        if not load.failed:
            return time.monotonic() - began
    return RELEASED_S
