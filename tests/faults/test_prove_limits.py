"""Everything that asks at once at two servers in processes of their own: exactly the limit."""

import json
from pathlib import Path

import pytest

from tests.cli.program import environment, run
from tests.fleet import fleet
from tests.redis_server import RedisServer


@pytest.mark.slow
def test_five_times_of_five_two_servers_admit_exactly_the_limit(
    tmp_path: Path, postgresql_url: str, redis_server: RedisServer
) -> None:
    found: list[tuple[int, int]] = []
    with fleet(tmp_path, postgresql_url, redis_server.url) as servers:
        one, two = servers.nodes
        where = ("--server", one.url, "--also", two.url, "--key", servers.key)
        for _ in range(5):
            ran = run("prove", "limits", *where, "--json", env=environment(tmp_path))
            found.append((ran.returncode, json.loads(ran.stdout)["admitted"]))

    assert found == [(0, 50)] * 5
