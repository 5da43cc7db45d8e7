"""Lists of requests, receipts, and what users say of answers."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.serving import LiveServer


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


def test_requests_are_listed_latest_first_and_page_by_page(someone: httpx2.Client) -> None:
    ids = [embed(someone, "a").headers["request-id"] for _ in range(5)]

    first = someone.get("/v1/requests", params={"limit": 3}).json()
    rest = someone.get("/v1/requests", params={"after": first["next_after"]}).json()

    assert [row["id"] for row in first["data"]] == ids[:1:-1]
    assert [row["id"] for row in rest["data"]] == ids[1::-1]
    assert (first["object"], first["has_more"], rest["has_more"]) == ("list", True, False)
    assert rest["next_after"] is None


def test_requests_are_told_apart(live_server: LiveServer, someone: httpx2.Client) -> None:
    good, other = embed(someone, "a"), chat(someone)
    refused = someone.post("/v1/embeddings", json={"model": "no-such-model", "input": "a"})
    live_server.row(refused)

    def listed(**wanted: str) -> list[str]:
        rows = someone.get("/v1/requests", params=wanted).json()["data"]
        return [row["id"] for row in rows]

    mine = someone.get("/v1/me").json()["key"]["id"]
    ids = [answer.headers["request-id"] for answer in (good, other, refused)]
    assert listed() == ids[::-1]
    assert listed(key=mine) == ids[::-1]
    assert listed(state="refused") == [ids[2]]
    assert listed(model="smollm2-135m-instruct") == [ids[1]]
    assert listed(endpoint="embeddings", state="completed") == [ids[0]]
    assert listed(key="'; DROP TABLE users --") == []


def test_a_request_tells_what_became_of_it(someone: httpx2.Client) -> None:
    answer = someone.post(
        "/v1/embeddings",
        json={"model": "galley/embeddings", "input": ["a", "b"], "user": "u"},
        headers={"x-request-id": "mine-1"},
    )

    found = someone.get(f"/v1/requests/{answer.headers['request-id']}").json()

    assert found["state"] == "completed"
    assert (found["status"], found["error_code"]) == (200, None)
    assert (found["model"], found["served_model"]) == ("galley/embeddings", "all-minilm-l6-v2")
    assert found["client_request_id"] == "mine-1"
    assert found["ignored_fields"] == ["user"]
    assert found["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert found["units"] == 2
    assert found["cost"] == 0
    assert found["price_id"] is not None
    assert found["response_time_ms"] > 0


def test_requests_of_others_are_not_there(live_server: LiveServer, someone: httpx2.Client) -> None:
    theirs = embed(live_server.client, "a").headers["request-id"]

    for request_id in (theirs, "nonsense", "'; DROP TABLE users --"):
        answer = someone.get(f"/v1/requests/{request_id}")
        assert answer.status_code == 404
        assert answer.json() == {"detail": "There is no such request."}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"after": "yesterday"}, 400),
        ({"limit": "0"}, 422),
        ({"limit": "1001"}, 422),
        ({"state": "gone"}, 422),
        ({"model": "a\0"}, 422),
        ({"endpoint": "a\0"}, 422),
        ({"key": "a\0"}, 422),
    ],
)
def test_a_list_of_requests_that_makes_no_sense_is_refused(
    someone: httpx2.Client, query: dict[str, str], status: int
) -> None:
    assert someone.get("/v1/requests", params=query).status_code == status
