"""Moderation in OpenAI's shape."""

from collections.abc import Iterator
from typing import Any, get_args

import httpx2
import pytest

from galley.core.catalogue import ModelSettings
from galley.schemas.moderations import MAX_INPUTS, Category
from galley.services.moderation import MAX_CHARACTERS
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import Call, misbehaving, well

pytestmark = pytest.mark.xdist_group("moderations")  # one server for the file

PATH = "/v1/moderations"
THREAT = "I'm going to kill you"
PICTURE: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def ask(server: LiveServer, given: Any, **more: Any) -> httpx2.Response:
    return server.post(PATH, input=given, **more)


def test_a_text_is_answered_with_every_category(live_server: LiveServer) -> None:
    answer = ask(live_server, THREAT, model="omni-moderation-latest")

    found = answer.json()
    assert answer.status_code == 200
    assert found["id"] == f"modr-{answer.headers['request-id']}"
    assert found["model"] == "galley-moderation"
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


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [("galley/chat", 400, "wrong_model_kind"), ("nobody", 404, "model_not_found")],
)
def test_another_model_does_not_moderate(
    live_server: LiveServer, model: str, status: int, code: str
) -> None:
    refused = ask(live_server, "a", model=model)

    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


RESULT = {
    "flagged": True,
    "categories": {"violence": True, "hate": False, "spam": True},
    "category_scores": {"violence": 0.97, "hate": 0.01},
    "category_applied_input_types": {"violence": ["text", "image"]},
}


class Judge:
    """A server that speaks OpenAI's `/moderations`, and says the same of every text."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    async def __call__(self, call: Call) -> None:
        if not call.path.endswith("/moderations"):
            await well(call)
            return
        self.bodies.append(call.body)
        given = call.body["input"]
        several = isinstance(given, list) and isinstance(given[0], str)
        results = [RESULT] * (len(given) if several else 1)
        await call.whole(200, {"id": "modr-1", "model": "theirs", "results": results})


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Judge]]:
    judge = Judge()
    with misbehaving(judge) as upstream:
        model = ModelSettings(
            kind="moderation", source=upstream.url, upstream_model="theirs", vision=True
        )
        folder = tmp_path_factory.mktemp("judged")
        settings = make_settings(folder, folder, models={"judge": model}, embedded_models=False)
        with serving(settings) as server:
            server.until_ready()
            price = {"unit": 5}
            assert server.client.put("/v1/admin/prices/judge", json=price).status_code == 200
            yield server, judge


def test_a_model_that_is_set_for_it_judges_in_place_of_the_rules(
    judged: tuple[LiveServer, Judge],
) -> None:
    server, judge = judged
    parts = [{"type": "text", "text": "Look:"}, PICTURE]

    texts = ask(server, ["Have a nice day.", "Hello"], model="omni-moderation-latest")
    picture = ask(server, parts)
    by_rules = ask(server, "Have a nice day.", model="galley-moderation")

    assert texts.json()["model"] == "judge"
    assert [result["flagged"] for result in texts.json()["results"]] == [True, True]
    (seen,) = picture.json()["results"]
    assert seen["category_scores"] == dict.fromkeys(get_args(Category), 0.0) | {
        "violence": 0.97, "hate": 0.01,
    }  # fmt: skip
    assert seen["category_applied_input_types"]["violence"] == ["text", "image"]
    assert "spam" not in seen["categories"]
    assert judge.bodies[0] == {"model": "theirs", "input": ["Have a nice day.", "Hello"]}
    assert judge.bodies[1]["input"][1]["image_url"]["url"] == PICTURE["image_url"]["url"]
    assert by_rules.json()["results"][0]["flagged"] is False
    row = server.row(texts)
    assert (row["served_model"], row["units"], row["cost"]) == ("judge", 2, 10)
