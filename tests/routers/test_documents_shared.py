"""Documents of several servers on one PostgreSQL: whichever is asked, it is one library."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
def shared(postgresql_url_at_head: str, redis_server: RedisServer) -> dict[str, Any]:
    """What servers on one database have in common."""
    return {
        "database_url": postgresql_url_at_head,
        "redis_url": redis_server.url,
        "bootstrap_key": make_key(),
        "embedded_models": False,
        "models": {MODEL: EMBEDDED_MODELS[MODEL]},
    }


@pytest.fixture
def servers(shared: dict[str, Any], models_dir: Path, tmp_path: Path) -> Iterator[list[LiveServer]]:
    """Two, each with a data directory of its own."""
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


def test_two_owners_with_the_same_names_and_texts_never_meet_at_either_server(
    servers: list[LiveServer],
) -> None:
    one, two = servers
    path = "/v1/documents"
    headers = {"authorization": f"Bearer {one.key_of_new_user()}"}
    mine = one.post(path, text=TIDES, name="tides.md").json()
    theirs = two.client.post(path, json={"text": TIDES, "name": "tides.md"}, headers=headers).json()
    query: dict[str, str] = {"query": "moon", "detail": "true"}

    for server in servers:
        found = [
            server.client.get("/v1/retrieve", params=query, headers=whose).json()["passages"]
            for whose in ({}, headers)
        ]
        others = [
            server.client.get(f"{path}/{theirs['id']}"),
            server.client.get(f"{path}/{mine['id']}/text", headers=headers),
            server.client.put(f"{path}/{theirs['id']}", json={"text": "stolen"}),
            server.client.delete(f"{path}/{mine['id']}", headers=headers),
            server.client.get(path, params={"collection": theirs["collection"]}),
        ]

        assert [[row["document_id"] for row in rows] for rows in found] == [
            [mine["id"]], [theirs["id"]],
        ]  # fmt: skip
        assert [answer.status_code for answer in others] == [404] * 5


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


def test_a_server_that_starts_leaves_alone_what_another_is_reading(
    shared: dict[str, Any], models_dir: Path, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "data", models_dir, **shared)
    incoming, half_sent, go_on = (
        settings.data_dir / "incoming",
        threading.Event(),
        threading.Event(),
    )

    def form() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="tides.md"\r\n\r\n'
        yield TIDES.encode()
        half_sent.set()
        go_on.wait(30)
        yield b"\r\n--x--\r\n"

    with serving(settings) as one, ThreadPoolExecutor(1) as client:
        one.until_ready()
        left = incoming / "of-a-server-that-died"
        left.touch()
        os.utime(left, (0, 0))
        headers = {"content-type": "multipart/form-data; boundary=x"}
        sending = client.submit(one.client.post, "/v1/documents", content=form(), headers=headers)
        half_sent.wait(30)
        while len(list(incoming.iterdir())) < 2:
            time.sleep(0.01)
        with serving(settings):
            go_on.set()
            answer = sending.result()

        assert answer.status_code == 201, answer.text
        assert retrieve(one, "moon") == [TIDES]
        assert not left.exists()
