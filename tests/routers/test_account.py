"""What callers may know: the models, and their own use."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.serving import LiveServer


@pytest.fixture
def someone(live_server: LiveServer) -> Iterator[httpx2.Client]:
    """A user who has not asked for anything yet."""
    headers = {"authorization": f"Bearer {live_server.key_of_new_user()}"}
    with httpx2.Client(base_url=live_server.url, headers=headers, timeout=60) as client:
        yield client


def test_models_are_listed_with_what_they_do_and_run_on(live_server: LiveServer) -> None:
    answer = live_server.client.get("/v1/models")

    body = answer.json()
    assert body["object"] == "list"
    kinds = {model["id"]: model["kind"] for model in body["data"]}
    assert kinds == {
        "smollm2-135m-instruct": "chat",
        "all-minilm-l6-v2": "embeddings",
        "efficientnet-lite0": "classify",
    }
    for model in body["data"]:
        assert model["object"] == "model"
        assert model["owned_by"] == "galley"
        assert model["status"] == "loaded"
        assert model["created"] > 1_700_000_000
        assert model["license"] == "Apache-2.0"
        assert "CPU" in model["hardware"] or "CUDA" in model["hardware"]


@pytest.mark.parametrize("path", ["/v1/model", "/api/v1/models", "/api/v1/model"])
def test_the_list_is_the_same_at_every_mounting(live_server: LiveServer, path: str) -> None:
    assert live_server.client.get(path).json() == live_server.client.get("/v1/models").json()


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "galley/chat", "galley%2Fchat"])
def test_a_model_is_found_by_its_name_and_by_its_alias(live_server: LiveServer, name: str) -> None:
    assert live_server.client.get(f"/v1/models/{name}").json()["id"] == "smollm2-135m-instruct"


def test_a_model_that_is_not_there_is_a_404_in_openais_words(live_server: LiveServer) -> None:
    unknown = live_server.client.get("/v1/models/gpt-99")

    assert unknown.status_code == 404
    error = unknown.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
    assert "gpt-99" in error["message"]


def test_usage_counts_exactly_what_was_done(
    live_server: LiveServer, someone: httpx2.Client
) -> None:
    chat = {"model": "galley/chat", "messages": [{"role": "user", "content": "Hi"}]}
    answers = [
        someone.post("/v1/embeddings", json={"model": "galley/embeddings", "input": ["a", "b c"]}),
        someone.post("/v1/chat/completions", json=chat | {"max_tokens": 3, "n": 2}),
        someone.post(
            "/v1/completions", json={"model": "galley/chat", "prompt": "One", "max_tokens": 2}
        ),
    ]
    refused = someone.post("/v1/embeddings", json={"model": "no-such-model", "input": "a"})
    stranger = someone.post("/v1/embeddings", headers={"authorization": "Bearer gk_wrong"})
    live_server.row(refused)  # nobody waits for a refusal to be written

    usage = someone.get("/v1/usage").json()

    assert [answer.status_code for answer in answers] == [200] * 3
    assert (refused.status_code, stranger.status_code) == (404, 401)
    counted = [answer.json()["usage"] for answer in answers]
    assert usage["total_requests"] == 4
    assert usage["successful_requests"] == 3
    assert usage["success_rate"] == 75.0
    assert usage["avg_response_time_ms"] > 0
    assert usage["prompt_tokens"] == sum(found["prompt_tokens"] for found in counted)
    assert usage["completion_tokens"] == 8
    assert usage["by_endpoint"] == {"embeddings": 2, "chat": 1, "completions": 1}


def test_usage_of_someone_new_is_nothing(someone: httpx2.Client) -> None:
    nothing: dict[str, Any] = {
        "total_requests": 0,
        "successful_requests": 0,
        "success_rate": 0.0,
        "avg_response_time_ms": 0.0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "by_endpoint": {},
    }

    for path in ("/usage", "/v1/usage", "/api/usage", "/api/v1/usage"):
        assert someone.get(path).json() == nothing


def test_users_see_their_own_use_alone(live_server: LiveServer, someone: httpx2.Client) -> None:
    before = live_server.client.get("/usage").json()

    someone.post("/v1/embeddings", json={"model": "galley/embeddings", "input": "a"})

    assert someone.get("/usage").json()["total_requests"] == 1
    assert live_server.client.get("/usage").json() == before


def test_a_key_may_come_as_anthropic_clients_send_it(live_server: LiveServer) -> None:
    answer = httpx2.get(f"{live_server.url}/v1/models", headers={"x-api-key": live_server.key})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Basic Z2s6Z2s="},
        {"authorization": "Bearer gk_nonsense"},
        {"authorization": "Bearer ' OR 1=1 --"},
        {"x-api-key": "x" * 10_000},
    ],
)
def test_nobody_gets_in_without_a_good_key(
    live_server: LiveServer, headers: dict[str, str]
) -> None:
    openais = httpx2.get(f"{live_server.url}/v1/models", headers=headers)
    native = httpx2.get(f"{live_server.url}/usage", headers=headers)

    assert (openais.status_code, native.status_code) == (401, 401)
    assert openais.json()["error"]["type"] == "authentication_error"
    assert isinstance(native.json()["detail"], str)
    assert native.headers["www-authenticate"] == "Bearer"
