"""A client that hangs up frees its slot within a second, and its row says so."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import EMBEDDED_MODELS
from galley.engines.llama import LlamaEngine
from tests.serving import LiveServer, make_settings, serving

STORY = {"role": "user", "content": "Write a very long story about a cook on a ship."}
FREED_S = 3.0  # under a second on a quiet machine; an unnoticed hang-up would take ten
LONG_PROMPT = {"role": "user", "content": "the cook stirs the soup " * 300}


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose only model makes one answer at a time."""
    model = EMBEDDED_MODELS["smollm2-135m-instruct"].model_copy(update={"slots": 1})
    settings = make_settings(
        tmp_path_factory.mktemp("hangup"),
        models_dir,
        models={"smollm2-135m-instruct": model},
        embedded_models=False,
    )
    with serving(settings) as server:
        server.until_ready()
        yield server


def body(**changes: Any) -> dict[str, Any]:
    endless = {"0": -100, "2": -100}  # the tokens that would end an answer
    given = {"model": "galley/chat", "messages": [STORY], "max_tokens": 1500}
    return given | {"logit_bias": endless} | changes


def newest_row(server: LiveServer) -> dict[str, Any]:
    with sqlite3.connect(server.settings.data_dir / "galley.db") as database:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM api_requests ORDER BY request_id DESC LIMIT 1")
        return dict(rows.fetchone())


def slots_at_work(server: LiveServer) -> int:
    """How many slots llama.cpp itself says are busy."""
    engine = server.app.state.runtime.models.find("galley/chat").engine
    assert isinstance(engine, LlamaEngine)
    assert engine.address is not None
    socket, secret = engine.address
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket))) as child:
        headers = {"authorization": f"Bearer {secret}"}
        found = child.get("http://child/slots", headers=headers).json()
    return sum(slot["is_processing"] for slot in found)


def wait_for(condition: Any, seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - began


def test_in_the_middle_of_a_stream(server: LiveServer) -> None:
    with server.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        pieces = answer.iter_lines()
        for _ in range(20):
            next(pieces)

    wait_for(lambda: slots_at_work(server) == 0, FREED_S)
    wait_for(lambda: newest_row(server)["state"] != "open", FREED_S)
    row = newest_row(server)
    assert (row["state"], row["status"]) == ("cancelled", 499)
    assert row["prompt_tokens"] > 20
    assert 5 <= row["completion_tokens"] < 500


def test_in_the_middle_of_a_streamed_message(server: LiveServer) -> None:
    asked = {"model": "galley/chat", "messages": [STORY], "max_tokens": 1500, "stream": True}
    with server.client.stream("POST", "/v1/messages", json=asked) as answer:
        lines = answer.iter_lines()
        while "text_delta" not in next(lines):
            pass

    wait_for(lambda: slots_at_work(server) == 0, FREED_S)
    wait_for(lambda: newest_row(server)["endpoint"] == "messages", FREED_S)
    wait_for(lambda: newest_row(server)["state"] != "open", FREED_S)
    row = newest_row(server)
    assert (row["state"], row["status"]) == ("cancelled", 499)
    assert 1 <= row["completion_tokens"] < 500


@pytest.mark.parametrize("stream", [False, True])
def test_while_the_prompt_is_read(server: LiveServer, stream: bool) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        server.client.post(
            "/v1/chat/completions",
            json=body(messages=[LONG_PROMPT], stream=stream),
            timeout=httpx2.Timeout(5, read=0.5),
        )

    wait_for(lambda: slots_at_work(server) == 0, FREED_S)
    wait_for(lambda: newest_row(server)["state"] != "open", FREED_S)
    row = newest_row(server)
    assert (row["state"], row["completion_tokens"]) == ("cancelled", 0)


def test_while_waiting_for_a_whole_answer(server: LiveServer) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        server.client.post("/v1/chat/completions", json=body(), timeout=httpx2.Timeout(5, read=1.5))

    wait_for(lambda: slots_at_work(server) == 0, FREED_S)
    wait_for(lambda: newest_row(server)["state"] != "open", FREED_S)
    row = newest_row(server)
    assert row["state"] == "cancelled"
    assert row["completion_tokens"] > 10


def test_while_queued(server: LiveServer) -> None:
    with server.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as first:
        lines = first.iter_lines()  # kept: without a reader the client hangs up
        next(lines)

        with pytest.raises(httpx2.ReadTimeout):
            server.client.post(
                "/v1/chat/completions", json=body(), timeout=httpx2.Timeout(5, read=0.5)
            )

        wait_for(lambda: newest_row(server)["state"] == "cancelled", FREED_S)
        row = newest_row(server)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (0, 0)
        assert slots_at_work(server) == 1
        metrics = server.client.get("/metrics").text
        assert 'galley_queue_length{model="smollm2-135m-instruct"} 0.0' in metrics


def test_a_queued_stream_is_kept_alive_with_comments(server: LiveServer) -> None:
    with server.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as first:
        lines = first.iter_lines()  # kept: without a reader the client hangs up
        next(lines)

        with server.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as second:
            comments = second.iter_lines()
            line = next(comments)

        assert second.status_code == 200
        assert line.startswith(":")
    wait_for(lambda: slots_at_work(server) == 0, FREED_S)


def test_a_full_queue_is_a_503_that_says_when_to_come_back(
    models_dir: Path, tmp_path: Path
) -> None:
    model = EMBEDDED_MODELS["smollm2-135m-instruct"].model_copy(update={"slots": 1, "queue": 0})
    settings = make_settings(
        tmp_path, models_dir, models={"smollm2-135m-instruct": model}, embedded_models=False
    )
    with serving(settings) as server:
        server.until_ready()
        with server.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as first:
            lines = first.iter_lines()  # kept: without a reader the client hangs up
            next(lines)

            refused = server.post("/v1/chat/completions", **body())

        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1


def test_an_answer_that_takes_too_long_is_a_504_and_frees_its_slot(
    models_dir: Path, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path, models_dir, request_timeout=3.0)
    with serving(settings) as server:
        server.until_ready()

        whole = server.post("/v1/chat/completions", **body(messages=[LONG_PROMPT]))
        streamed = server.post("/v1/chat/completions", **body(stream=True))

        assert whole.status_code == 504
        assert whole.json()["error"]["code"] == "timeout"
        assert streamed.status_code == 200
        assert '"code":"timeout"' in streamed.text.splitlines()[-2]
        wait_for(lambda: slots_at_work(server) == 0, FREED_S)
        assert newest_row(server)["state"] == "failed"
