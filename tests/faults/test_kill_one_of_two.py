"""kill -9 of one of two servers behind nginx, under load and with jobs to do."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.databases import visit
from tests.faults.test_kill_jobs import LONGEST_S, ended, lose_leases
from tests.fleet import ASKS, TEXTS, fleet, load_of
from tests.load import Failure
from tests.redis_server import RedisServer
from tests.waiting import until

EACH = 2


@pytest.mark.parametrize(
    ("count", "jobs", "pause_s"),
    [(200, 12, 0.1), pytest.param(2_000, 100, 0.0, marks=pytest.mark.slow)],
)
def test_nginx_carries_on_the_ledger_is_whole_and_jobs_finish_elsewhere(
    tmp_path: Path,
    postgresql_url: str,
    redis_server: RedisServer,
    count: int,
    jobs: int,
    pause_s: float,
) -> None:
    with fleet(tmp_path, postgresql_url, redis_server.url) as servers, servers.client() as api:
        with load_of(servers, each=EACH, pause_s=pause_s) as load:
            submit(api, jobs)
            load.until(count // 2)
            dead, alive = servers.nodes
            killed = time.monotonic()
            dead.kill()
            load.until(count)
        visit(postgresql_url, lose_leases)  # in half a minute, they would be lost by themselves
        until(lambda: len(ended(api)) == jobs, LONGEST_S)
        done = ended(api)
        states = servers.states()
        with httpx2.Client(base_url=alive.url) as direct:
            ready = direct.get("/health/ready").status_code

    # What it had in hand when it died is lost to who asked, and is not asked of the other.
    assert len(load.failed) <= len(ASKS) * EACH
    assert [failure for failure in load.failed if not is_cut_off(failure)] == []
    assert all(failure.at - killed < 5 for failure in load.failed)
    assert len(load.whole) > count // 2
    assert {states[request_id] for request_id in load.whole} == {"completed"}
    assert {job["status"] for job in done} == {"succeeded"}
    assert ready == 200


def is_cut_off(failure: Failure) -> bool:
    """A stream that broke off, or an answer that nginx had begun to wait for."""
    return failure.status == 502 or (failure.status == 0 and "stream" in failure.what)


def submit(api: httpx2.Client, count: int) -> None:
    """Ask for embeddings of the lines of a file, again and again."""
    upload = {"file": ("lines.txt", b"one\ntwo\nthree")}
    file_id = api.post("/v1/files", files=upload, data={"purpose": "user_data"}).json()["id"]
    asked: dict[str, Any] = {"task": "embed", "params": {"file_id": file_id, "model": TEXTS}}
    for _ in range(count):
        assert api.post("/process", json=asked).status_code == 202
