"""What users learn of their own requests, and admins of everybody's."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from tests.serving import LiveServer

TODAY = datetime.now(UTC).date()


@pytest.fixture
def someone(live_server: LiveServer) -> Iterator[httpx2.Client]:
    """A user who has not asked for anything yet."""
    headers = {"authorization": f"Bearer {live_server.key_of_new_user()}"}
    with httpx2.Client(base_url=live_server.url, headers=headers, timeout=60) as client:
        yield client


def embed(client: httpx2.Client, *texts: str) -> httpx2.Response:
    return client.post("/v1/embeddings", json={"model": "galley/embeddings", "input": texts})


def chat(client: httpx2.Client) -> httpx2.Response:
    messages = [{"role": "user", "content": "Hi"}]
    return client.post(
        "/v1/chat/completions",
        json={"model": "galley/chat", "messages": messages, "max_tokens": 3},
    )


def test_usage_counts_exactly_what_was_done(
    live_server: LiveServer, someone: httpx2.Client
) -> None:
    question = {"model": "galley/chat", "messages": [{"role": "user", "content": "Hi"}]}
    answers = [
        embed(someone, "a", "b c"),
        someone.post("/v1/chat/completions", json=question | {"max_tokens": 3, "n": 2}),
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
    assert list(usage)[:4] == [
        "total_requests", "successful_requests", "success_rate", "avg_response_time_ms",
    ]  # fmt: skip
    assert usage["total_requests"] == 4
    assert usage["successful_requests"] == 3
    assert usage["success_rate"] == 75.0
    assert usage["avg_response_time_ms"] > 0
    assert usage["prompt_tokens"] == sum(found["prompt_tokens"] for found in counted)
    assert usage["completion_tokens"] == 8
    assert usage["units"] == 2
    assert usage["by_endpoint"] == {"embeddings": 2, "chat": 1, "completions": 1}


def test_usage_of_someone_new_is_nothing(someone: httpx2.Client) -> None:
    nothing: dict[str, Any] = {
        "total_requests": 0,
        "successful_requests": 0,
        "success_rate": 0.0,
        "avg_response_time_ms": 0.0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "units": 0,
        "cost": 0,
        "by_endpoint": {},
        "rows": [],
        "has_more": False,
    }

    for path in ("/usage", "/v1/usage", "/api/usage", "/api/v1/usage"):
        found = someone.get(path).json()
        assert {name: found[name] for name in nothing} == nothing
        assert found.keys() == nothing.keys() | {"limits"}


def test_users_see_their_own_use_alone(live_server: LiveServer, someone: httpx2.Client) -> None:
    before = live_server.client.get("/usage").json()

    embed(someone, "a")

    assert someone.get("/usage").json()["total_requests"] == 1
    after = live_server.client.get("/usage").json()
    assert after["total_requests"] == before["total_requests"]


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        ("day", {str(TODAY), str(TODAY + timedelta(days=1))}),
        ("model", {"all-minilm-l6-v2", "smollm2-135m-instruct"}),
        ("endpoint", {"embeddings", "chat"}),
    ],
)
def test_usage_is_added_up_by_what_is_asked_for(
    someone: httpx2.Client, group_by: str, groups: set[str]
) -> None:
    embed(someone, "a")
    chat(someone)

    found = someone.get("/v1/usage", params={"group_by": group_by}).json()

    assert {row["group"] for row in found["rows"]} <= groups
    assert sum(row["requests"] for row in found["rows"]) == found["total_requests"] == 2
    assert sum(r["completion_tokens"] for r in found["rows"]) == found["completion_tokens"] == 3


def test_usage_by_key_names_the_keys(someone: httpx2.Client) -> None:
    embed(someone, "a")

    (row,) = someone.get("/v1/usage", params={"group_by": "key"}).json()["rows"]

    assert row["name"] == "first"
    assert row["group"] == someone.get("/v1/me").json()["key"]["id"]


def test_days_outside_the_span_do_not_count(someone: httpx2.Client) -> None:
    embed(someone, "a")
    tomorrow = TODAY + timedelta(days=1)

    today = someone.get("/v1/usage", params={"from": str(TODAY), "to": str(tomorrow)}).json()
    later = someone.get("/v1/usage", params={"from": str(TODAY + timedelta(days=2))}).json()

    assert (today["total_requests"], later["total_requests"]) == (1, 0)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"from": "2026-02-01", "to": "2026-01-31"}, 400),
        ({"from": "yesterday"}, 422),
        ({"to": "2026-02-30"}, 422),
        ({"to": "9999-12-31"}, 200),
        ({"to": "9999-12-31", "group_by": "key"}, 200),
        ({"group_by": "user"}, 422),
        ({"group_by": "'; DROP TABLE users --"}, 422),
    ],
)
def test_of_spans_and_groups_only_those_that_make_no_sense_are_refused(
    someone: httpx2.Client, query: dict[str, str], status: int
) -> None:
    assert someone.get("/v1/usage", params=query).status_code == status


def test_admins_see_everybodys_usage_by_user_and_tier(
    live_server: LiveServer, someone: httpx2.Client
) -> None:
    embed(someone, "a")
    me = someone.get("/v1/me").json()

    def everyones(by: str) -> dict[str, Any]:
        return live_server.client.get("/v1/admin/usage", params={"group_by": by}).json()

    users, tiers = everyones("user"), everyones("tier")

    mine = [row for row in users["rows"] if row["group"] == me["user_id"]]
    assert [(row["name"], row["requests"]) for row in mine] == [(me["email"], 1)]
    assert sum(row["requests"] for row in users["rows"]) == users["total_requests"] >= 1
    assert "enterprise" in {row["group"] for row in tiers["rows"]}
    assert "limits" not in users


def test_everybodys_usage_is_not_for_everybody(someone: httpx2.Client) -> None:
    refused = someone.get("/v1/admin/usage")

    assert refused.status_code == 403
    assert "admin:usage" in refused.json()["detail"]


def test_callers_learn_who_they_are(live_server: LiveServer, someone: httpx2.Client) -> None:
    me = someone.get("/v1/me").json()
    admin = live_server.client.get("/v1/me").json()

    assert me["tier"] == "enterprise"
    assert me["models"] is None
    assert "usage" in me["scopes"]
    assert not any(scope.startswith("admin:") for scope in me["scopes"])
    assert me["key"]["name"] == "first"
    assert someone.headers["authorization"].endswith(me["key"]["last_four"])
    assert "key" not in me["key"]
    assert admin["email"] == "admin@localhost"
    assert "admin:prices" in admin["scopes"]
