"""With too much to do the free tier is refused first; short of memory, large requests are."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import Call, misbehaving

ASK = {"model": "far", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[LiveServer]:
    """A server for which two requests at once are too many, while it answers one."""
    go_on, asked = asyncio.Event(), threading.Event()

    async def hold(call: Call) -> None:
        if call.body["messages"][0]["content"] == "Hold on":
            asked.set()
            await go_on.wait()
        await call.begin()
        await call.events(*call.good())

    with misbehaving(hold) as far:
        models = {"far": {"kind": "chat", "source": far.url}}
        settings = make_settings(
            tmp_path, tmp_path, models=models, embedded_models=False, max_in_flight=2
        )
        asyncio.run(_make_free(settings.database_url.get_secret_value()))
        with serving(settings) as server:
            held = {**ASK, "messages": [{"role": "user", "content": "Hold on"}]}
            thread = threading.Thread(target=lambda: server.post("/v1/chat/completions", **held))
            thread.start()
            assert asked.wait(10)
            yield server
            far._loop.call_soon_threadsafe(go_on.set)
            thread.join()


async def _make_free(url: str) -> None:
    async with open_database(url) as database:
        await Pricing(database.sessions).seed_free(["far"])


def test_the_free_tier_is_refused_first_and_it_is_on_record(busy: LiveServer) -> None:
    free = {"authorization": f"Bearer {busy.key_of_new_user(tier='free')}"}
    premium = {"authorization": f"Bearer {busy.key_of_new_user(tier='premium')}"}

    refused = busy.client.post("/v1/chat/completions", json=ASK, headers=free)
    answered = busy.client.post("/v1/chat/completions", json=ASK, headers=premium)

    row = busy.row(refused)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    assert answered.status_code == 200
    assert (row["state"], row["error_code"], row["cost"]) == ("refused", "overloaded", 0)
    metrics = busy.client.get("/metrics").text
    assert 'galley_requests_shed_total{reason="load"} 1.0' in metrics
    assert 'galley_pressure{part="requests"} 0.5' in metrics


def test_short_of_memory_a_large_request_is_refused_whoever_asks(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, tmp_path, embedded_models=False, memory_limit=1)
    large = {"model": "nobody-knows-it", "input": "x" * 1_000_000}
    with serving(settings) as server:
        while (health := server.client.get("/health").json())["parts"]["memory"] == "ok":
            pass  # it has not looked yet
        ready = server.client.get("/health/ready")

        refused = server.post("/v1/embeddings", **large)
        unsized = server.client.post("/v1/files", content=iter([b"a file of any size"]))
        small = server.post("/v1/embeddings", model="nobody-knows-it", input="x")

    assert health["status"] == "degraded"
    assert ready.status_code == 200
    assert [refused.status_code, unsized.status_code, small.status_code] == [503, 503, 404]
    assert refused.json()["error"]["code"] == "memory_short"
    assert int(refused.headers["retry-after"]) >= 1
