"""Two apps in one process share nothing but the files of their models."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import EMBEDDED_MODELS
from tests.serving import LiveServer, make_settings, serving

EMBED = {"model": "galley/embeddings", "input": "hello"}


@pytest.fixture(scope="module")
def servers(
    models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Two servers side by side, the second one with shorter bodies."""
    first = make_settings(tmp_path_factory.mktemp("first"), models_dir)
    second = make_settings(tmp_path_factory.mktemp("second"), models_dir, body_limit=1000)
    with serving(first) as one, serving(second) as two:
        one.until_ready()
        two.until_ready()
        yield one, two


def test_the_key_of_one_opens_nothing_at_the_other(
    servers: tuple[LiveServer, LiveServer],
) -> None:
    one, two = servers

    crossed = httpx2.get(f"{two.url}/v1/models", headers={"authorization": f"Bearer {one.key}"})

    assert crossed.status_code == 401
    assert two.client.get("/v1/models").status_code == 200


def test_requests_to_one_are_not_in_the_usage_or_the_metrics_of_the_other(
    servers: tuple[LiveServer, LiveServer],
) -> None:
    one, two = servers
    before = two.client.get("/usage").json()["total_requests"]

    assert one.post("/v1/embeddings", **EMBED).status_code == 200

    counted = 'galley_requests_total{endpoint="embeddings",model="all-minilm-l6-v2",status="200"}'
    assert one.client.get("/usage").json()["total_requests"] >= 1
    assert two.client.get("/usage").json()["total_requests"] == before
    assert counted in one.client.get("/metrics").text
    assert counted not in two.client.get("/metrics").text


def test_each_keeps_to_its_own_settings(servers: tuple[LiveServer, LiveServer]) -> None:
    one, two = servers
    long = EMBED | {"input": ["hello"] * 500}

    assert one.post("/v1/embeddings", **long).status_code == 200
    assert two.post("/v1/embeddings", **long).status_code == 413


def test_each_has_its_own_engine_and_database(servers: tuple[LiveServer, LiveServer]) -> None:
    one, two = (server.app.state.runtime for server in servers)

    assert one.database.path != two.database.path
    pids = {runtime.models.find("galley/chat").engine.pid for runtime in (one, two)}
    assert len(pids) == 2


def test_closing_one_leaves_the_other_at_work(models_dir: Path, tmp_path: Path) -> None:
    mini = {name: EMBEDDED_MODELS[name] for name in ("all-minilm-l6-v2",)}
    one, two = (
        make_settings(tmp_path / name, models_dir, models=mini, embedded_models=False)
        for name in ("one", "two")
    )

    with serving(one) as first:
        with serving(two) as second:
            second.until_ready()
        first.until_ready()

        assert first.post("/v1/embeddings", **EMBED).status_code == 200


def test_a_closed_app_is_freed_with_all_that_it_held(models_dir: Path, tmp_path: Path) -> None:
    mini = {name: EMBEDDED_MODELS[name] for name in ("all-minilm-l6-v2",)}
    settings = make_settings(tmp_path, models_dir, models=mini, embedded_models=False)

    def run() -> list[weakref.ref[Any]]:
        with serving(settings) as server:
            server.until_ready()
            assert server.post("/v1/embeddings", **EMBED).status_code == 200
            for page in ("/docs", "/redoc", "/openapi.json", "/v1/models", "/nowhere"):
                server.client.get(page)
            models = server.app.state.runtime.models
            engine = models.find("galley/embeddings").engine
            return [weakref.ref(each) for each in (server.app, models, engine)]

    held = run()
    gc.collect()

    assert [each() for each in held] == [None, None, None]
