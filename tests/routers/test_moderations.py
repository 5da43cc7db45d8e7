"""Moderation in OpenAI's shape."""

from typing import Any, get_args

import httpx2
import pytest

from galley.schemas.moderations import MAX_INPUTS, Category
from galley.services.moderation import MAX_CHARACTERS
from tests.serving import LiveServer

PATH = "/v1/moderations"
THREAT = "I'm going to kill you"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def ask(server: LiveServer, given: Any, **more: Any) -> httpx2.Response:
    return server.post(PATH, input=given, **more)


def test_a_text_is_answered_with_every_category(live_server: LiveServer) -> None:
    answer = ask(live_server, THREAT, model="omni-moderation-latest")

    found = answer.json()
    assert answer.status_code == 200
    assert found["id"] == f"modr-{answer.headers['request-id']}"
    assert found["model"] == "omni-moderation-latest"
    (result,) = found["results"]
    assert result["flagged"] is True
    for part in ("categories", "category_scores", "category_applied_input_types"):
        assert set(result[part]) == set(get_args(Category))
    assert result["categories"]["harassment/threatening"] is True
    assert result["categories"]["sexual"] is False
    assert result["category_scores"]["violence"] >= 0.5
    assert result["category_applied_input_types"]["hate"] == ["text"]


def test_each_text_of_a_list_has_a_result_and_parts_have_one_together(
    live_server: LiveServer,
) -> None:
    parts = [{"type": "text", "text": "Have a nice day."}, {"type": "text", "text": THREAT}]

    listed = ask(live_server, ["Have a nice day.", THREAT, ""]).json()["results"]
    joined = ask(live_server, parts).json()["results"]

    assert [result["flagged"] for result in listed] == [False, True, False]
    assert [result["flagged"] for result in joined] == [True]


def test_it_is_booked_by_the_text(live_server: LiveServer) -> None:
    row = live_server.row(ask(live_server, ["one", "two"]))

    assert (row["endpoint"], row["served_model"]) == ("moderations", "galley-moderation")
    assert (row["state"], row["units"], row["cost"]) == ("completed", 2, 0)


def test_texts_count_against_the_limits(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"texts_per_minute": 2})
    headers = {"authorization": f"Bearer {key}"}

    answers = [
        live_server.client.post(PATH, json={"input": ["a", "b"]}, headers=headers) for _ in range(2)
    ]

    assert [answer.status_code for answer in answers] == [200, 429]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "invalid_request"),
        ({"input": []}, "input", "invalid_request"),
        ({"input": [1]}, "input", "invalid_request"),
        ({"input": ["a", {"type": "text", "text": "b"}]}, "input", "invalid_request"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input", "invalid_request"),
        ({"input": [{"type": "audio"}]}, "input", "invalid_request"),
        ({"input": [{"type": "text", "text": "a"}, PICTURE]}, "input[1]", "unsupported_content"),
        ({"input": "a" * (MAX_CHARACTERS + 1)}, "input", "context_length_exceeded"),
        ({"input": "a", "user": "me"}, "user", "invalid_request"),
    ],
    ids=str,
)
def test_what_cannot_be_judged_is_refused_by_name(
    live_server: LiveServer, body: dict[str, Any], param: str, code: str
) -> None:
    refused = live_server.post(PATH, **body)

    error = refused.json()["error"]
    assert refused.status_code == 400
    assert (error["code"], error["param"].startswith(param)) == (code, True)


def test_another_model_does_not_moderate(live_server: LiveServer) -> None:
    refused = ask(live_server, "a", model="galley/chat")

    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "model_not_found"
