"""Limits as callers meet them: refusals in the words of the route, and how far they are."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serving import LiveServer

CAT = base64.b64encode(
    (Path(__file__).parent.parent / "data" / "photos" / "cat.jpg").read_bytes()
).decode()
HELLO: dict[str, Any] = {
    "model": "galley/chat",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 2,
}


@pytest.fixture
def free(live_server: LiveServer) -> Iterator[httpx2.Client]:
    """A new user of the free tier."""
    headers = {"authorization": f"Bearer {live_server.key_of_new_user(tier='free')}"}
    with httpx2.Client(base_url=live_server.url, headers=headers, timeout=60) as client:
        yield client


def test_the_free_tier_classifies_five_pictures_a_minute(free: httpx2.Client) -> None:
    answers = [free.post("/classify", json={"image": CAT}) for _ in range(6)]

    assert [a.status_code for a in answers] == [200] * 5 + [429]
    left = [a.headers["x-ratelimit-remaining-requests"] for a in answers]
    assert left == ["4", "3", "2", "1", "0", "0"]
    refused = answers[-1]
    assert refused.headers["x-ratelimit-limit-requests"] == "5"
    assert 0 < int(refused.headers["retry-after"]) <= 61
    assert "5 images in any 60 seconds" in refused.json()["detail"]


def test_pictures_count_one_by_one(free: httpx2.Client) -> None:
    fits = free.post("/v2/classify", json={"images": [{"image": CAT}] * 4})
    refused = free.post("/v2/classify", json={"images": [{"image": CAT}] * 2})
    still_fits = free.post("/v2/classify", json={"images": [{"image": CAT}]})

    assert [a.status_code for a in (fits, refused, still_fits)] == [200, 429, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_over_the_limit_is_refused_in_openais_envelope(
    live_server: LiveServer, stream: bool
) -> None:
    key = live_server.key_of_new_user(limits={"requests_per_minute": 1})
    headers = {"authorization": f"Bearer {key}"}
    body = HELLO | {"stream": stream}

    first = live_server.client.post("/v1/chat/completions", json=body, headers=headers)
    refused = live_server.client.post("/v1/chat/completions", json=body, headers=headers)

    assert first.status_code == 200
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert 0 < int(refused.headers["retry-after"]) <= 61
    assert "x-should-retry" not in refused.headers
    assert live_server.row(refused)["state"] == "refused"


@pytest.mark.parametrize(
    ("limits", "whose"), [({"requests_per_day": 0}, "of this user"), ({}, "tier NAME")]
)
def test_a_refusal_says_whose_limit_it_is(
    live_server: LiveServer, limits: dict[str, int], whose: str
) -> None:
    tier = live_server.new_tier(limits={"requests_per_day": 0})
    key = live_server.key_of_new_user(tier=tier, limits=limits)
    headers = {"authorization": f"Bearer {key}"}

    refused = live_server.client.post("/v1/chat/completions", json=HELLO, headers=headers)

    said = refused.json()["error"]["message"]
    assert f"limit of 0 requests a day ({whose.replace('NAME', tier)})" in said


def test_a_request_that_could_never_fit_is_not_worth_trying_again(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"tokens_per_minute": 50})
    headers = {"authorization": f"Bearer {key}"}

    refused = live_server.client.post("/v1/chat/completions", json=HELLO, headers=headers)

    assert refused.status_code == 429
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers


def test_tokens_that_were_not_needed_come_back(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"tokens_per_minute": 200})
    headers = {"authorization": f"Bearer {key}"}

    answers = [
        live_server.client.post("/v1/chat/completions", json=HELLO, headers=headers)
        for _ in range(3)
    ]

    assert [a.status_code for a in answers] == [200, 200, 200]
    used = [a.json()["usage"]["total_tokens"] for a in answers]
    assert answers[2].headers["x-ratelimit-limit-tokens"] == "200"
    assert sum(used) < 200


def test_a_model_that_the_tier_does_not_have_is_as_if_it_were_not(live_server: LiveServer) -> None:
    tier = live_server.new_tier(models=["all-minilm-l6-v2"])
    headers = {"authorization": f"Bearer {live_server.key_of_new_user(tier=tier)}"}

    listed = live_server.client.get("/v1/models", headers=headers).json()["data"]
    described = live_server.client.get("/v1/models/galley/chat", headers=headers)
    refused = live_server.client.post("/v1/chat/completions", json=HELLO, headers=headers)

    assert [model["id"] for model in listed] == ["all-minilm-l6-v2"]
    assert [a.status_code for a in (described, refused)] == [404, 404]
    assert refused.json()["error"]["code"] == "model_not_found"


def test_usage_says_what_the_limits_leave_and_asking_uses_nothing_up(free: httpx2.Client) -> None:
    free.post("/classify", json={"image": CAT})

    free.get("/v1/usage")
    limits = free.get("/v1/usage").json()["limits"]

    left = {(limit["metric"], limit["period"]): limit for limit in limits}
    assert (left["images", "minute"]["limit"], left["images", "minute"]["remaining"]) == (5, 4)
    assert 0 < left["images", "minute"]["reset_s"] <= 61
    assert left["concurrency", "now"]["remaining"] == 4
    assert {limit["subject"] for limit in limits} == {"user"}
