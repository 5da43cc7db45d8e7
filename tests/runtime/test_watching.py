"""What the metrics say of parts that may be away."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from galley.core.catalogue import ModelSettings
from galley.db.session import open_database
from galley.services.breaker import FAILURES
from galley.services.pricing import Pricing
from tests.redis_server import RedisServer
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import Upstream, misbehaving
from tests.upstream_faults import bad_key

HELLO = {"role": "user", "content": "Hello"}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with misbehaving() as upstream:
        yield upstream


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream, own_redis: RedisServer) -> Iterator[LiveServer]:
    """It has one model, on two servers of which one never was there, and its limits in Redis."""
    nobody = "http://127.0.0.1:9/v1"
    far = ModelSettings(kind="chat", source=upstream.url, replicas=(nobody,))
    settings = make_settings(
        tmp_path, tmp_path, models={"far": far}, embedded_models=False, redis_url=own_redis.url
    )
    url = settings.database_url.get_secret_value()

    async def make_free() -> None:
        async with open_database(url) as database:
            await Pricing(database.sessions).seed_free(["far"])

    asyncio.run(make_free())
    with serving(settings) as server:
        server.until_ready()
        yield server


def until(server: LiveServer, line: str) -> None:
    """Wait until the metrics say so."""
    end = time.monotonic() + 10
    while line not in (page := server.client.get("/metrics").text).splitlines():
        assert time.monotonic() < end, page
        time.sleep(0.05)


def test_a_server_that_is_away_is_shown_and_its_model_is_up_while_another_answers(
    server: LiveServer, upstream: Upstream
) -> None:
    until(server, 'galley_backend_up{model="far",replica="0"} 1.0')
    until(server, 'galley_backend_up{model="far",replica="1"} 0.0')
    until(server, 'galley_model_up{model="far"} 1.0')

    upstream.close_port()
    server.post("/v1/chat/completions", model="far", messages=[HELLO])
    until(server, 'galley_backend_up{model="far",replica="0"} 0.0')
    until(server, 'galley_model_up{model="far"} 0.0')

    upstream.open_port()
    until(server, 'galley_model_up{model="far"} 1.0')


def test_a_breaker_is_shown_in_the_one_state_that_it_is_in(
    server: LiveServer, upstream: Upstream
) -> None:
    closed = 'galley_breaker_state{model="far",replica="0",state="closed"}'
    until(server, f"{closed} 1.0")

    upstream.behaviour = bad_key
    for _ in range(FAILURES):
        server.post("/v1/chat/completions", model="far", messages=[HELLO])

    until(server, f"{closed} 0.0")
    states = [
        line.rpartition(" ")[2]
        for line in server.client.get("/metrics").text.splitlines()
        if line.startswith('galley_breaker_state{model="far",replica="0"')
    ]
    assert sorted(states) == ["0.0", "0.0", "1.0"]


def test_limits_without_their_redis_are_lost(server: LiveServer, own_redis: RedisServer) -> None:
    until(server, "galley_limits_lost 0.0")

    key = server.key_of_new_user(limits={"requests_per_minute": 100})
    own_redis.stop()
    body = {"model": "far", "messages": [HELLO]}
    headers = {"authorization": f"Bearer {key}"}
    assert server.client.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    until(server, "galley_limits_lost 1.0")

    own_redis.start()
    until(server, "galley_limits_lost 0.0")
