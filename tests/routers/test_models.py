"""The list of models, in the shape of whoever asks."""

import pytest

from galley.schemas.account import AnthropicModel, AnthropicModelList
from tests.serving import LiveServer

NAMES = ["smollm2-135m-instruct", "all-minilm-l6-v2", "efficientnet-lite0"]
VERSION = {"anthropic-version": "2023-06-01"}


def test_who_sends_anthropics_version_gets_anthropics_shape(live_server: LiveServer) -> None:
    answer = live_server.client.get("/v1/models", headers=VERSION).json()

    AnthropicModelList.model_validate(answer)
    assert [model["id"] for model in answer["data"]] == NAMES
    assert set(answer) == {"data", "first_id", "last_id", "has_more"}
    assert (answer["first_id"], answer["last_id"], answer["has_more"]) == (*NAMES[::2], False)


def test_everybody_else_gets_openais(live_server: LiveServer) -> None:
    answer = live_server.client.get("/v1/models").json()

    assert [model["id"] for model in answer["data"]] == NAMES
    assert answer["object"] == "list"
    assert {model["object"] for model in answer["data"]} == {"model"}


def test_one_model_is_found_by_its_alias(live_server: LiveServer) -> None:
    answer = live_server.client.get("/v1/models/galley/chat", headers=VERSION).json()

    AnthropicModel.model_validate(answer)
    assert (answer["type"], answer["id"]) == ("model", NAMES[0])


def test_pages_follow_each_other(live_server: LiveServer) -> None:
    first = live_server.client.get("/v1/models?limit=2", headers=VERSION).json()
    rest = live_server.client.get(f"/v1/models?after_id={first['last_id']}", headers=VERSION).json()

    assert [model["id"] for model in first["data"] + rest["data"]] == NAMES
    assert (first["has_more"], rest["has_more"]) == (True, False)


@pytest.mark.parametrize(
    ("path", "headers", "status", "kind"),
    [
        ("/v1/models", {"authorization": ""}, 401, "authentication_error"),
        ("/v1/models/nobody", {}, 404, "not_found_error"),
        ("/v1/models?limit=0", {}, 400, "invalid_request_error"),
        ("/v1/models?after_id=nobody", {}, 400, "invalid_request_error"),
        ("/v1/nothing", {}, 404, "not_found_error"),
    ],
)
def test_refusals_are_in_the_same_words(
    live_server: LiveServer, path: str, headers: dict[str, str], status: int, kind: str
) -> None:
    refused = live_server.client.get(path, headers=VERSION | headers)

    assert refused.status_code == status
    assert (refused.json()["type"], refused.json()["error"]["type"]) == ("error", kind)
    assert refused.json()["request_id"] == refused.headers["request-id"]
