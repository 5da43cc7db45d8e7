"""Message batches: requests that come in one body, on the road that all batches take."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import httpx2
import orjson
import pytest

from galley.db.tables import id_bytes
from tests.routers.batch_files import LONGEST_S
from tests.serving import LiveServer

PATH = "/v1/messages/batches"
HELLO = {
    "model": "galley/chat",
    "max_tokens": 4,
    "messages": [{"role": "user", "content": "Say hello."}],
}
ONE = {"custom_id": "a", "params": HELLO}


@pytest.fixture
def ada(live_server: LiveServer) -> Iterator[httpx2.Client]:
    yield from client_of(live_server, live_server.key_of_new_user())


@pytest.fixture
def eve(live_server: LiveServer) -> Iterator[httpx2.Client]:
    yield from client_of(live_server, live_server.key_of_new_user())


def client_of(server: LiveServer, key: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, headers={"x-api-key": key}, timeout=60) as client:
        yield client


def several(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [{"custom_id": f"m-{n}", "params": HELLO | changes} for n in range(count)]


def start(client: httpx2.Client, requests: list[Any]) -> dict[str, Any]:
    answer = client.post(PATH, json={"requests": requests})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(client: httpx2.Client, batch: dict[str, Any]) -> dict[str, Any]:
    end = time.monotonic() + LONGEST_S
    while (found := client.get(f"{PATH}/{batch['id']}").json())["processing_status"] != "ended":
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def results(client: httpx2.Client, batch: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What became of its requests, by their ids."""
    answer = client.get(batch["results_url"])
    assert answer.status_code == 200, answer.text
    lines = [orjson.loads(line) for line in answer.content.splitlines()]
    found = {line["custom_id"]: line["result"] for line in lines}
    assert len(found) == len(lines)
    return found


def booked(server: LiveServer, user: httpx2.Client) -> list[tuple[bytes, str]]:
    """The ids and states of a user's requests in the ledger."""
    owner = user.get("/v1/me").json()["user_id"]
    with closing(sqlite3.connect(server.settings.data_dir / "galley.db")) as database:
        query = "SELECT request_id, state FROM api_requests WHERE user_id = ?"
        return database.execute(query, [id_bytes(owner)]).fetchall()


def code_of(answer: httpx2.Response) -> str:
    """The code of a refusal, which is in Anthropic's envelope."""
    body = answer.json()
    assert body["type"] == "error"
    assert body["request_id"] == answer.headers["request-id"]
    return body["error"]["details"]["error_code"]


def test_every_request_is_answered_and_booked_once(
    live_server: LiveServer, ada: httpx2.Client
) -> None:
    made = start(ada, several(20))

    batch = ended(ada, made)
    found = results(ada, batch)

    assert made["id"].startswith("msgbatch_")
    assert made["type"] == "message_batch"
    assert made["request_counts"]["processing"] == 20
    assert made["ended_at"] is made["results_url"] is made["cancel_initiated_at"] is None
    created, expires, end = (
        datetime.fromisoformat(batch[name]) for name in ("created_at", "expires_at", "ended_at")
    )
    assert expires - created == timedelta(hours=24)
    assert created <= end
    assert batch["results_url"] == f"{live_server.url}{PATH}/{batch['id']}/results"
    assert batch["request_counts"] == {
        "processing": 0, "succeeded": 20, "errored": 0, "canceled": 0, "expired": 0,
    }  # fmt: skip
    assert found.keys() == {f"m-{n}" for n in range(20)}
    assert {(one["type"], one["message"]["type"]) for one in found.values()} == {
        ("succeeded", "message")
    }
    assert dict(booked(live_server, ada)) == {
        id_bytes(one["message"]["id"].removeprefix("msg_")): "completed" for one in found.values()
    }


def test_a_request_is_answered_as_it_would_be_alone(ada: httpx2.Client) -> None:
    params = HELLO | {"temperature": 0, "system": "You are brief."}

    found = results(ada, ended(ada, start(ada, [ONE | {"params": params}])))["a"]["message"]

    alone = ada.post("/v1/messages", json=params).json()
    assert found["content"] == alone["content"]
    assert found.keys() == alone.keys()
    assert ada.get(f"/v1/requests/{found['id'].removeprefix('msg_')}").status_code == 200


def test_what_is_wrong_with_one_request_fails_that_one_alone(
    live_server: LiveServer, ada: httpx2.Client
) -> None:
    requests = [
        ONE,
        {"custom_id": "empty", "params": {}},
        {"custom_id": "misspelt", "params": HELLO | {"temprature": 1}},
        {"custom_id": "of_no_model", "params": HELLO | {"model": "no-such-model"}},
        {"custom_id": "many", "params": HELLO | {"max_tokens": 10**30}},
    ]

    batch = ended(ada, start(ada, requests))
    found = results(ada, batch)

    assert batch["request_counts"] == {
        "processing": 0, "succeeded": 1, "errored": 4, "canceled": 0, "expired": 0,
    }  # fmt: skip
    assert found["a"]["type"] == "succeeded"
    errors = {name: one["error"] for name, one in found.items() if one["type"] == "errored"}
    assert {error["type"] for error in errors.values()} == {"error"}
    assert {name: error["error"]["type"] for name, error in errors.items()} == {
        "empty": "invalid_request_error",
        "misspelt": "invalid_request_error",
        "of_no_model": "not_found_error",
        "many": "invalid_request_error",
    }
    ids = {id_bytes(error["request_id"]) for error in errors.values()}
    assert ids < {request_id for request_id, _ in booked(live_server, ada)}


FAULTS: dict[str, tuple[Any, str]] = {
    "nothing": ([], "requests: "),
    "a text": (["a"], "requests: "),
    "another field": ([ONE, ONE | {"custom_id": "b", "x": 1}], "requests.1.x: "),
    "no id": ([{"params": HELLO}], "requests.0.custom_id: "),
    "an empty id": ([ONE | {"custom_id": ""}], "requests.0.custom_id: "),
    "a long id": ([ONE | {"custom_id": "a" * 65}], "requests.0.custom_id: "),
    "an id with spaces": ([ONE | {"custom_id": "a b"}], "requests.0.custom_id: "),
    "an id with a line feed": ([ONE | {"custom_id": "a\n"}], "requests.0.custom_id: "),
    "an id that is a number": ([ONE | {"custom_id": 1}], "requests.0.custom_id: "),
    "an id given twice": ([ONE, ONE], "requests.1.custom_id: requests.0 "),
    "no params": ([{"custom_id": "a"}], "requests.0.params: "),
    "params that are a list": ([ONE | {"params": []}], "requests.0.params: "),
    "a stream": ([ONE | {"params": HELLO | {"stream": True}}], "requests.0.params.stream: "),
    "too many": ([ONE | {"custom_id": f"{n}"} for n in range(50_001)], "requests: "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_in_a_batch_is_refused_by_its_place_and_leaves_nothing(
    ada: httpx2.Client, name: str
) -> None:
    requests, begins = FAULTS[name]

    answer = ada.post(PATH, json={"requests": requests})

    assert answer.status_code == 400
    assert code_of(answer) == ("stream_not_supported" if name == "a stream" else "invalid_request")
    assert answer.json()["error"]["message"].startswith(begins)
    for path in (PATH, "/v1/files", "/v1/jobs"):
        assert ada.get(path).json()["data"] == []


@pytest.mark.parametrize(
    "body",
    {
        "empty": b"",
        "no JSON": b"hello",
        "cut off": b'{"requests": [{"custom_id": "a", "params": {',
        "a list": b"[]",
        "NaN": b'{"requests": [{"custom_id": "a", "params": {"x": NaN}}]}',
        "a name given twice": b'{"requests": [{"custom_id": "a", "custom_id": "b", "params": {}}]}',
        "bad UTF-8": b'{"requests": [{"custom_id": "a", "params": {"x": "\xff"}}]}',
        "a lone surrogate": b'{"requests": [{"custom_id": "a", "params": {"x": "\\ud800"}}]}',
        "deep lists": b'{"requests": [{"custom_id": "a", "params": {"x": ' + b"[" * 100_000,
        "nested": b'{"requests": [{"custom_id": "a", "params": {"x": %b%b}}]}'
        % (b"[" * 100_000, b"]" * 100_000),
        "deep": b'{"requests": [{"custom_id": "a", "params": {"x": %b%b}}]}'
        % (b"[" * 300, b"]" * 300),
        "another field": b'{"requests": [{"custom_id": "a", "params": {}}], "metadata": {}}',
    }.values(),
)
def test_a_body_that_is_no_list_of_requests_is_refused(ada: httpx2.Client, body: bytes) -> None:
    answer = ada.post(PATH, content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400, answer.text
    assert code_of(answer) == "invalid_request"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert ada.get("/v1/files").json()["data"] == []


def test_batches_are_listed_in_pages_both_ways(ada: httpx2.Client) -> None:
    ids = [start(ada, [ONE])["id"] for _ in range(5)][::-1]

    def page(query: str) -> tuple[list[str], bool]:
        found = ada.get(f"{PATH}?{query}").json()
        names = [batch["id"] for batch in found["data"]]
        assert (found["first_id"], found["last_id"]) == (names[0], names[-1])
        return names, found["has_more"]

    assert page("limit=2") == (ids[:2], True)
    assert page(f"limit=2&after_id={ids[1]}") == (ids[2:4], True)
    assert page(f"limit=2&after_id={ids[3]}") == (ids[4:], False)
    assert page(f"limit=2&before_id={ids[4]}") == (ids[2:4], True)
    assert page(f"limit=2&before_id={ids[2]}") == (ids[:2], False)
    for query in ("after_id=x", "before_id=x", "limit=0", "limit=1001"):
        assert ada.get(f"{PATH}?{query}").status_code == 400
    for found in ids:
        ended(ada, {"id": found})


def test_a_canceled_batch_says_of_each_request_what_became_of_it(
    live_server: LiveServer, ada: httpx2.Client
) -> None:
    batch = start(ada, several(200, temperature=1))
    while not booked(live_server, ada):
        time.sleep(0.05)

    early = [ada.get(f"{PATH}/{batch['id']}/results"), ada.delete(f"{PATH}/{batch['id']}")]
    canceling = ada.post(f"{PATH}/{batch['id']}/cancel").json()
    found = ended(ada, batch)
    again = ada.post(f"{PATH}/{batch['id']}/cancel")

    assert [(answer.status_code, code_of(answer)) for answer in early] == [
        (409, "batch_not_ended")
    ] * 2
    assert canceling["processing_status"] == "canceling"
    assert canceling["request_counts"]["processing"] == 200
    assert found["cancel_initiated_at"] == canceling["cancel_initiated_at"]
    kinds = [one["type"] for one in results(ada, found).values()]
    counts = found["request_counts"]
    assert len(kinds) == sum(counts.values()) == 200
    assert counts["succeeded"] == kinds.count("succeeded") == len(booked(live_server, ada)) > 0
    assert counts["canceled"] == kinds.count("canceled") > 0
    assert (again.status_code, code_of(again)) == (409, "batch_ended")
    assert again.headers["x-should-retry"] == "false"


def test_a_deleted_batch_takes_its_files_and_its_job_with_it(ada: httpx2.Client) -> None:
    batch = ended(ada, start(ada, [ONE]))

    gone = ada.delete(f"{PATH}/{batch['id']}")

    assert gone.json() == {"id": batch["id"], "type": "message_batch_deleted"}
    missing = [
        ada.get(f"{PATH}/{batch['id']}"),
        ada.get(batch["results_url"]),
        ada.delete(f"{PATH}/{batch['id']}"),
    ]
    assert [(answer.status_code, code_of(answer)) for answer in missing] == [
        (404, "batch_not_found")
    ] * 3
    assert ada.get("/v1/files").json()["data"] == ada.get(PATH).json()["data"] == []
    jobs = ada.get("/v1/jobs").json()["data"]
    assert [job["status"] for job in jobs if job["status"] != "cancelled"] == []


def test_results_whose_file_was_deleted_are_not_there(ada: httpx2.Client) -> None:
    batch = ended(ada, start(ada, [ONE]))
    (made,) = ada.get("/v1/files?purpose=batch_output").json()["data"]
    ada.delete(f"/v1/files/{made['id']}")

    answer = ada.get(batch["results_url"])

    assert (answer.status_code, code_of(answer)) == (404, "file_not_found")


def test_nobody_else_sees_cancels_or_deletes_a_batch(
    ada: httpx2.Client, eve: httpx2.Client
) -> None:
    batch = ended(ada, start(ada, [ONE]))
    path = f"{PATH}/{batch['id']}"

    answers = [
        eve.get(path), eve.get(f"{path}/results"), eve.post(f"{path}/cancel"), eve.delete(path),
    ]  # fmt: skip

    assert [(answer.status_code, code_of(answer)) for answer in answers] == [
        (404, "batch_not_found")
    ] * 4
    assert eve.get(PATH).json() == {
        "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    assert results(ada, batch).keys() == {"a"}


def test_two_users_with_the_same_requests_get_their_own_answers(
    live_server: LiveServer, ada: httpx2.Client, eve: httpx2.Client
) -> None:
    made = [(user, start(user, several(2))) for user in (ada, eve)]

    found = [(user, results(user, ended(user, batch))) for user, batch in made]

    said = [{result["message"]["id"] for result in answers.values()} for _, answers in found]
    assert [answers.keys() for _, answers in found] == [{"m-0", "m-1"}] * 2
    assert len(said[0] | said[1]) == 4
    assert [len(booked(live_server, user)) for user, _ in found] == [2, 2]


def test_the_batches_of_each_dialect_are_its_own(ada: httpx2.Client) -> None:
    batch = ended(ada, start(ada, [ONE]))
    bare = batch["id"].removeprefix("msgbatch_")

    as_openai = [ada.get(f"/v1/batches/{name}") for name in (batch["id"], f"batch_{bare}")]
    as_anthropic = ada.get(f"{PATH}/batch_{bare}")

    assert [answer.status_code for answer in [*as_openai, as_anthropic]] == [404] * 3
    assert ada.get("/v1/batches").json()["data"] == []
    refused = ada.post("/v1/batches", json={"input_file_id": "file-x", "endpoint": "/v1/messages"})
    assert refused.status_code == 400


def test_who_may_not_ask_a_question_may_not_ask_many_and_nothing_is_left(
    ada: httpx2.Client,
) -> None:
    scopes = ["files", "jobs", "embeddings"]
    key = ada.post("/v1/keys", json={"name": "narrow", "scopes": scopes}).json()["key"]

    answer = ada.post(PATH, json={"requests": [ONE]}, headers={"x-api-key": key})

    assert (answer.status_code, code_of(answer)) == (403, "missing_scope")
    assert answer.json()["error"]["type"] == "permission_error"
    assert ada.get("/v1/files").json()["data"] == []


def test_a_batch_under_api_tells_of_addresses_under_api(ada: httpx2.Client) -> None:
    made = start(ada, [ONE])
    ended(ada, made)

    found = ada.get(f"/api{PATH}/{made['id']}").json()

    assert found["results_url"] == str(ada.base_url.join(f"/api{PATH}/{made['id']}/results"))
    assert results(ada, found).keys() == {"a"}


def test_a_large_batch_is_taken_in(ada: httpx2.Client) -> None:
    made = start(ada, several(20_000))

    ada.post(f"{PATH}/{made['id']}/cancel")
    batch = ended(ada, made)

    assert made["request_counts"]["processing"] == sum(batch["request_counts"].values()) == 20_000
    assert len(results(ada, batch)) == 20_000
