"""Two servers behind nginx are restarted one after the other, and nobody notices."""

import time
from pathlib import Path

import pytest

from tests.fleet import fleet, load_of
from tests.redis_server import RedisServer

LEFT_OUT_S = 5.0  # nginx tries one request, and counts on the server when that was answered


@pytest.mark.parametrize(
    ("count", "pause_s"), [(200, 0.2), pytest.param(2_000, 0.0, marks=pytest.mark.slow)]
)
def test_no_request_fails_while_each_server_is_restarted_under_load(
    tmp_path: Path, postgresql_url: str, redis_server: RedisServer, count: int, pause_s: float
) -> None:
    statuses: list[int] = []
    with fleet(tmp_path, postgresql_url, redis_server.url) as servers:
        with load_of(servers, pause_s=pause_s) as load:
            load.until(count // 4)
            for node in servers.nodes:
                statuses.append(node.stop())
                node.start()
                time.sleep(LEFT_OUT_S)
            load.until(count)
        states = servers.states()

    assert load.failed == []
    assert statuses == [0, 0]
    assert len(load.whole) > count // 2
    assert {states[request_id] for request_id in load.whole} == {"completed"}
    assert set(states.values()) == {"completed"}
