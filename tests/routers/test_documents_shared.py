"""Documents of several servers on one PostgreSQL: whichever is asked, it is one library."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.security import make_key
from tests.redis_server import RedisServer
from tests.serving import LiveServer, make_settings, serving

MODEL = "all-minilm-l6-v2"
TIDES = "# Tides\n\nThe moon pulls the sea, and twice a day the water rises."
BREAD = "# Bread\n\nThe dough has to rest overnight."


@pytest.fixture
def servers(
    postgresql_url_at_head: str, redis_server: RedisServer, models_dir: Path, tmp_path: Path
) -> Iterator[list[LiveServer]]:
    """Two, each with a data directory of its own."""
    shared: dict[str, Any] = {
        "database_url": postgresql_url_at_head,
        "redis_url": redis_server.url,
        "bootstrap_key": make_key(),
        "embedded_models": False,
        "models": {MODEL: EMBEDDED_MODELS[MODEL]},
    }
    with ExitStack() as stack:
        made = [
            stack.enter_context(serving(make_settings(tmp_path / name, models_dir, **shared)))
            for name in ("one", "two")
        ]
        for server in made:
            server.until_ready()
        yield made


def retrieve(server: LiveServer, query: str) -> list[str]:
    answer = server.client.get("/retrieve", params={"query": query, "limit": 1})
    assert answer.status_code == 200, answer.text
    return answer.json()["documents"]


def test_what_is_added_at_one_server_is_found_replaced_and_deleted_at_the_other(
    servers: list[LiveServer],
) -> None:
    one, two = servers
    made = one.post("/v1/documents", text=TIDES, name="tides.md").json()

    found = retrieve(two, "Why does the water rise?")
    replaced = two.client.put(f"/v1/documents/{made['id']}", json={"text": BREAD})
    after = retrieve(one, "Why does the water rise?")
    deleted = two.client.delete(f"/v1/documents/{made['id']}")

    assert found == [TIDES]
    assert replaced.status_code == 200, replaced.text
    assert after == [BREAD]
    assert deleted.status_code == 200
    assert one.client.get(f"/v1/documents/{made['id']}").status_code == 404


def test_a_job_indexes_what_was_accepted_and_both_servers_find_it(
    servers: list[LiveServer],
) -> None:
    one, two = servers

    accepted = one.post("/v1/documents", text=TIDES, name="tides.md", background=True)

    assert accepted.status_code == 202, accepted.text
    path, end = f"/v1/documents/{accepted.json()['id']}", time.monotonic() + 30
    while two.client.get(path).json()["status"] == "queued":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert retrieve(one, "moon") == retrieve(two, "moon") == [TIDES]


def test_names_of_nothing_are_not_found(servers: list[LiveServer]) -> None:
    client = servers[0].client

    for name in ("%00", "a%00b", "%ED%A0%80", "'%20OR%201=1"):
        missing = [
            client.get(f"/v1/documents/{name}"),
            client.get(f"/v1/collections/{name}"),
            client.delete(f"/v1/documents/{name}"),
        ]
        others = [
            client.get(f"/v1/documents?collection={name}"),
            client.get(f"/v1/retrieve?query=moon&collection={name}"),
            client.get(f"/v1/retrieve?query=moon&name={name}&document={name}&metadata=a={name}"),
        ]

        assert {answer.status_code for answer in missing} <= {404, 422}
        assert all(answer.status_code < 500 for answer in others), [a.text for a in others]
