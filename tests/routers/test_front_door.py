"""A model that is busy: who waits, who is sent away, and who is cut off."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from galley.core.catalogue import EMBEDDED_MODELS
from tests.serving import LiveServer, make_settings, serving

pytestmark = pytest.mark.xdist_group("rush")  # one server for the file

CHAT = "smollm2-135m-instruct"
ENDLESS = {"0": -100, "2": -100}  # the tokens that would end an answer
LONGEST_CALL_S = 4.0
STORY = [{"role": "user", "content": "Write a very long story about a cook on a ship."}]


@dataclass
class Rush:
    """What became of requests that came one after the other to a model with one slot.

    The first one is never done, the second waits for its slot, and there is no room for more.
    """

    server: LiveServer
    endless: httpx2.Response
    waiting: httpx2.Response
    crowded: httpx2.Response
    crowded_simple: httpx2.Response
    refused_in_s: float


@pytest.fixture(scope="module")
def rush(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rush]:
    model = EMBEDDED_MODELS[CHAT].model_copy(update={"slots": 1, "queue": 1})
    settings = make_settings(
        tmp_path_factory.mktemp("rush"),
        models_dir,
        models={CHAT: model},
        embedded_models=False,
        request_timeout=LONGEST_CALL_S,
    )
    with serving(settings) as server, ThreadPoolExecutor() as pool:
        server.until_ready()
        endless = _later(pool, server, max_tokens=2000)
        time.sleep(LONGEST_CALL_S * 0.2)
        waiting = _later(pool, server, max_tokens=2)
        _until_waiting(server)
        began = time.monotonic()
        crowded = server.post("/v1/chat/completions", model="galley/chat", messages=STORY)
        refused_in_s = time.monotonic() - began
        crowded_simple = server.post("/chat/stream", messages=STORY)
        yield Rush(
            server, endless.result(), waiting.result(), crowded, crowded_simple, refused_in_s
        )


def _later(pool: ThreadPoolExecutor, server: LiveServer, **body: Any) -> Future[httpx2.Response]:
    body |= {"model": "galley/chat", "messages": STORY, "stream": True, "logit_bias": ENDLESS}
    return pool.submit(server.post, "/v1/chat/completions", **body)


def _until_waiting(server: LiveServer) -> None:
    line = f'galley_queue_length{{model="{CHAT}"}} 1.0'
    end = time.monotonic() + LONGEST_CALL_S
    while line not in server.client.get("/metrics").text:
        assert time.monotonic() < end, "nobody waits"
        time.sleep(0.01)


def test_a_stream_that_waits_is_kept_alive_by_comments(rush: Rush) -> None:
    comments, _, answer = rush.waiting.text.partition("data: ")

    assert rush.waiting.status_code == 200
    assert comments.startswith(": ")
    assert comments.split("\n\n")[0] == ": position 1 of 1 in the queue"
    assert orjson.loads(answer.split("\n\n")[0])["choices"][0]["delta"]["role"] == "assistant"
    assert answer.endswith("data: [DONE]\n\n")
    assert rush.server.row(rush.waiting)["state"] == "completed"


def test_who_finds_no_room_is_sent_away_at_once_and_told_when_to_come_back(rush: Rush) -> None:
    assert rush.crowded.status_code == rush.crowded_simple.status_code == 503
    assert rush.refused_in_s < 1
    assert int(rush.crowded.headers["retry-after"]) >= 1
    assert rush.crowded.json()["error"]["code"] == "queue_full"
    assert isinstance(rush.crowded_simple.json()["detail"], str)
    assert rush.server.row(rush.crowded)["state"] == "refused"


def test_a_stream_that_takes_too_long_ends_with_an_error_event(rush: Rush) -> None:
    *events, last, rest = rush.endless.text.split("\n\n")

    assert rush.endless.status_code == 200
    assert rest == ""
    assert len(events) > 10
    error = orjson.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("api_error", "timeout")
    row = rush.server.row(rush.endless)
    assert (row["state"], row["status"], row["error_code"]) == ("failed", 504, "timeout")
    assert row["completion_tokens"] >= len(events) - 1
    assert LONGEST_CALL_S * 1000 <= row["response_time_ms"] < LONGEST_CALL_S * 2000


def test_a_whole_answer_that_takes_too_long_is_a_504(rush: Rush) -> None:
    slow = rush.server.post("/chat", messages=STORY, max_tokens=2000)

    assert slow.status_code == 504
    assert f"{LONGEST_CALL_S:g} seconds" in slow.json()["detail"]
    quick = rush.server.post("/chat", messages=STORY, max_tokens=1)
    assert quick.status_code == 200, "the slot is free again"


@pytest.mark.parametrize("path", ["/v1/fine_tuning", "/api/v1/fine_tuning", "/v1/videos/x"])
def test_an_unknown_route_under_v1_is_named_in_the_openai_envelope(
    path: str, live_server: LiveServer
) -> None:
    refused = live_server.post(path, model="galley/chat")

    assert refused.status_code == 404
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")
    assert f"POST {path}" in error["message"]


def test_an_unknown_route_elsewhere_is_named_in_the_native_envelope(
    live_server: LiveServer,
) -> None:
    refused = live_server.client.get("/v3/chat")

    assert refused.status_code == 404
    assert "GET /v3/chat" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        (
            "/chat/completions",
            "For /v1/chat/completions, your client's base URL has to end with /v1.",
        ),
        ("/embeddings", "For /v1/embeddings, your client's base URL has to end with /v1."),
        ("/v1/v1/messages", "For /v1/messages, your client's base URL has to leave out /v1."),
    ],
)
def test_a_base_url_that_is_wrong_by_v1_is_put_right(
    path: str, advice: str, live_server: LiveServer
) -> None:
    refused = live_server.post(path, model="galley/chat")

    assert refused.status_code == 404
    assert refused.json()["error"]["message"] == f"There is no POST {path} here. {advice}"


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/conversation", "/api/v1/chat/completions"])
def test_another_method_is_405_on_every_path_of_an_endpoint(
    path: str, live_server: LiveServer
) -> None:
    refused = live_server.client.get(path)

    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST"
