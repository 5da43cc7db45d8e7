"""Ids and timings: what every answer carries."""

import uuid

import httpx2
import pytest

from tests.serving import LiveServer

EVERYWHERE = [
    ("GET", "/health/live", 200),
    ("GET", "/v1/models", 200),
    ("GET", "/no/such/path", 404),
    ("GET", "/v1/chat/completions", 405),
    ("POST", "/v1/chat/completions", 400),
    ("POST", "/classify", 422),
]


@pytest.mark.parametrize(("method", "path", "status"), EVERYWHERE)
def test_every_answer_has_an_id_of_its_own(
    live_server: LiveServer, method: str, path: str, status: int
) -> None:
    first, second = (live_server.client.request(method, path) for _ in range(2))

    assert first.status_code == status
    made = uuid.UUID(first.headers["request-id"])
    assert made.version == 7
    assert first.headers["x-request-id"] == first.headers["request-id"]
    assert first.headers["request-id"] != second.headers["request-id"]


@pytest.mark.parametrize(("method", "path", "status"), EVERYWHERE)
def test_a_sane_id_of_the_caller_comes_back_beside_ours(
    live_server: LiveServer, method: str, path: str, status: int
) -> None:
    given = "job-17/step:4@home=_."

    answer = live_server.client.request(method, path, headers={"x-request-id": given})

    assert answer.status_code == status
    assert answer.headers["x-request-id"] == given
    assert uuid.UUID(answer.headers["request-id"]).version == 7


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a;b", "<script>", "caf\xe9"])
def test_any_other_id_of_the_caller_is_dropped(live_server: LiveServer, given: str) -> None:
    headers = [(b"x-request-id", given.encode("latin-1"))]

    answer = live_server.client.get("/health/live", headers=headers)

    assert answer.headers["x-request-id"] == answer.headers["request-id"]


def test_the_callers_id_is_in_the_ledger_and_need_not_be_unique(live_server: LiveServer) -> None:
    bodies = {"model": "galley/embeddings", "input": "a"}

    answers = [
        live_server.client.post("/v1/embeddings", json=bodies, headers={"x-request-id": "same"})
        for _ in range(2)
    ]

    rows = [live_server.row(answer) for answer in answers]
    assert [row["client_request_id"] for row in rows] == ["same", "same"]
    assert rows[0]["request_id"] != rows[1]["request_id"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_models_answer_says_how_long_it_took(live_server: LiveServer, stream: bool) -> None:
    answer = live_server.post(
        "/v1/completions", model="galley/chat", prompt="One", max_tokens=1, stream=stream
    )

    name, _, duration = answer.headers["server-timing"].partition(";dur=")
    assert name == "app"
    assert 0 < float(duration) < 60_000


def test_an_answer_for_nobody_in_particular_has_an_id_too(live_server: LiveServer) -> None:
    refused = httpx2.post(f"{live_server.url}/v1/embeddings")

    assert refused.status_code == 401
    assert uuid.UUID(refused.headers["request-id"]).version == 7


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/docs", "/v1/models", "/no/such/path"]
)
def test_head_is_answered_as_get_is_without_the_body(live_server: LiveServer, path: str) -> None:
    whole, head = (live_server.client.request(method, path) for method in ("GET", "HEAD"))

    assert head.status_code == whole.status_code
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert int(head.headers["content-length"]) == len(whole.content)
    assert head.content == b""
