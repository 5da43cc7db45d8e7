import httpx2
import pytest

from tests.cli.conftest import Galley
from tests.serving import LiveServer


@pytest.fixture
def someone(
    live_server: LiveServer, galley: Galley, monkeypatch: pytest.MonkeyPatch
) -> tuple[httpx2.Client, Galley]:
    """A user with limits, and the command line with their key."""
    limits = {"requests_per_minute": 2, "texts_per_minute": 10}
    key = live_server.key_of_new_user(limits=limits)
    monkeypatch.setenv("GALLEY_BASE_URL", live_server.url)
    monkeypatch.setenv("GALLEY_API_KEY", key)
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=live_server.url, headers=headers, timeout=60), galley


def embed(client: httpx2.Client) -> httpx2.Response:
    body = {"model": "galley/embeddings", "input": ["a"], "user": "me"}
    return client.post("/v1/embeddings", json=body)


def test_an_answer_is_explained(someone: tuple[httpx2.Client, Galley]) -> None:
    client, galley = someone
    with client:
        request_id = embed(client).headers["request-id"]
        client.post(f"/v1/requests/{request_id}/feedback", json={"score": 0.5, "comment": "Fine."})
        found = client.get(f"/v1/requests/{request_id}").json()

    shown = galley("why", request_id)
    as_json = galley("why", request_id, "--json").stdout

    assert shown.exit_code == 0, shown.stderr
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert f"request {request_id}" in lines
    assert "ended completed 200" in lines
    assert "model galley/embeddings, answered by all-minilm-l6-v2" in lines
    assert "ignored user" in lines
    assert "feedback 0.5: Fine." in lines
    assert f"cost $0.00, by price {found['price_id']}" in lines
    assert "requests per minute, user 2 1 1" in lines
    assert "texts per minute, user 10 1 9" in lines
    assert any(line.startswith("all-minilm-l6-v2 0 closed ok ") for line in lines)
    assert any(line.startswith("time admitted after ") for line in lines)
    assert f'"price_id": "{found["price_id"]}"' in as_json


def test_a_refusal_is_explained(
    live_server: LiveServer, someone: tuple[httpx2.Client, Galley]
) -> None:
    client, galley = someone
    with client:
        refused = [embed(client) for _ in range(3)][-1]
        live_server.row(refused)  # nobody waits for a refusal to be written

    shown = galley("why", refused.headers["request-id"]).stdout

    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "ended refused 429 rate_limit_exceeded" in lines
    assert "requests per minute, user 2 1 0 in the way" in lines
    assert "outcome" not in shown


def test_a_request_of_someone_else_is_not_there(
    live_server: LiveServer, someone: tuple[httpx2.Client, Galley]
) -> None:
    client, galley = someone
    client.close()
    theirs = embed(live_server.client).headers["request-id"]

    refused = galley("why", theirs)

    assert refused.exit_code == 1
    assert "There is no such request." in refused.stderr
