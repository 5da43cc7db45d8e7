"""What callers may know of the models, and who may ask."""

import httpx2
import pytest

from tests.serving import LiveServer


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
