"""Batches: every line answered as a request over HTTP would be, once, and told in files."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import orjson
import pytest

from galley.db.tables import id_bytes
from tests.routers.batch_files import content, embedding_lines, ended, jsonl, start, upload
from tests.serving import LiveServer

HELLO = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
def ada(live_server: LiveServer) -> Iterator[httpx2.Client]:
    yield from client_of(live_server, live_server.key_of_new_user())


@pytest.fixture
def eve(live_server: LiveServer) -> Iterator[httpx2.Client]:
    yield from client_of(live_server, live_server.key_of_new_user())


def client_of(server: LiveServer, key: str) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


def chat_line(custom_id: str, **changes: Any) -> dict[str, Any]:
    body = {"model": "galley/chat", "messages": HELLO, "max_tokens": 4} | changes
    url = "/v1/chat/completions"
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def ids_of(client: httpx2.Client, batch: dict[str, Any]) -> list[str]:
    """The ids of all requests that were made for the lines of a batch."""
    files = [batch["output_file_id"], batch["error_file_id"]]
    lines = [line for file in files if file for line in content(client, file)]
    return [line["response"]["request_id"] for line in lines]


def job_of(client: httpx2.Client, batch: dict[str, Any]) -> dict[str, Any]:
    """The job of a batch, which ends a moment after it."""
    path = f"/v1/jobs/{batch['id'].removeprefix('batch_')}"
    end = time.monotonic() + 10
    while (job := client.get(path).json())["status"] in {"queued", "running"}:
        assert time.monotonic() < end, job
        time.sleep(0.01)
    return job


def rows(server: LiveServer, user: httpx2.Client) -> list[dict[str, Any]]:
    """What the ledger has of a user."""
    owner = user.get("/v1/me").json()["user_id"]
    with closing(sqlite3.connect(server.settings.data_dir / "galley.db")) as database:
        database.row_factory = sqlite3.Row
        query = "SELECT * FROM api_requests WHERE user_id = ?"
        return [dict(row) for row in database.execute(query, [id_bytes(owner)])]


def test_every_line_is_answered_and_booked_once(
    live_server: LiveServer, ada: httpx2.Client
) -> None:
    made = start(ada, embedding_lines(40), metadata={"project": "x"})

    batch = ended(ada, made)
    lines = content(ada, batch["output_file_id"])
    booked = rows(live_server, ada)

    assert made["status"] in {"validating", "in_progress"}
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    assert batch["error_file_id"] is None
    assert batch["metadata"] == {"project": "x"}
    assert batch["model"] == "galley/embeddings"
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["completed_at"]
    assert batch["expires_at"] - batch["created_at"] == 24 * 3600
    assert [line["custom_id"] for line in lines] == [f"line-{n}" for n in range(1, 41)]
    for line in lines:
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["object"] == "list"
    assert {row["state"] for row in booked} == {"completed"}
    assert {row["request_id"] for row in booked} == {
        id_bytes(line["response"]["request_id"]) for line in lines
    }
    assert len(booked) == 40
    assert batch["usage"]["input_tokens"] == sum(row["prompt_tokens"] for row in booked)


def test_a_line_is_answered_as_a_request_is(live_server: LiveServer, ada: httpx2.Client) -> None:
    line = embedding_lines(1)[0]

    batch = ended(ada, start(ada, [line]))
    answered = content(ada, batch["output_file_id"])[0]["response"]
    asked = ada.post("/v1/embeddings", json=line["body"]).json()
    receipt = ada.get(f"/v1/requests/{answered['request_id']}")

    assert answered["body"] == asked
    assert receipt.status_code == 200


@pytest.mark.parametrize(
    ("endpoint", "body", "kind"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 4}, "chat.completion"),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 4}, "text_completion"),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 16}, "response"),
    ],
)
def test_texts_are_made_in_batches_too(
    ada: httpx2.Client, endpoint: str, body: dict[str, Any], kind: str
) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": endpoint,
        "body": {"model": "galley/chat"} | body,
    }

    batch = ended(ada, start(ada, [line], endpoint))
    (answered,) = content(ada, batch["output_file_id"])

    assert batch["status"] == "completed"
    assert answered["response"]["body"]["object"] == kind
    assert batch["usage"]["output_tokens"] > 0
    if kind == "response":
        kept = ada.get(f"/v1/responses/{answered['response']['body']['id']}")
        assert kept.json()["output"] == answered["response"]["body"]["output"]


def test_a_line_that_is_refused_does_not_stop_the_others(
    live_server: LiveServer, ada: httpx2.Client
) -> None:
    lines = [
        chat_line("good"),
        chat_line("streamed", stream=True),
        chat_line("misspelt", temprature=1),
        chat_line("of no model", model="no-such-model"),
        orjson.dumps(chat_line("number", seed=0)).replace(b'"seed":0', b'"seed":1%030d' % 0),
    ]

    batch = ended(ada, start(ada, lines, "/v1/chat/completions"))
    good = content(ada, batch["output_file_id"])
    bad = content(ada, batch["error_file_id"])

    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 5, "completed": 1, "failed": 4}
    assert [line["custom_id"] for line in good] == ["good"]
    found = {
        line["custom_id"]: (
            line["response"]["status_code"], line["response"]["body"]["error"]["code"]
        )
        for line in bad
    }  # fmt: skip
    assert found == {
        "streamed": (400, "stream_not_supported"),
        "misspelt": (400, "invalid_request"),
        "of no model": (404, "model_not_found"),
        "number": (400, "invalid_request"),
    }
    booked = rows(live_server, ada)
    assert sorted(row["state"] for row in booked) == ["completed", *["refused"] * 4]
    assert {row["request_id"] for row in booked} == {id_bytes(i) for i in ids_of(ada, batch)}


LINE = embedding_lines(1)[0]
FAULTS: dict[str, tuple[list[Any], str, int | None, str | None]] = {
    "nothing": ([], "empty_file", None, None),
    "empty lines": ([b"", b"  "], "empty_file", None, None),
    "no JSON": ([LINE, b"hello"], "invalid_json_line", 2, None),
    "a line cut off": ([b'{"custom_id": "a"'], "invalid_json_line", 1, None),
    "bad UTF-8": ([b'{"custom_id": "\xff"}'], "invalid_json_line", 1, None),
    "a lone surrogate": ([b'{"custom_id": "\\ud800"}'], "invalid_json_line", 1, None),
    "a list": ([b"[]"], "invalid_line", 1, None),
    "a name given twice": (
        [orjson.dumps(LINE)[:-1] + b',"method":"POST"}'], "invalid_json_line", 1, None,
    ),
    "NaN": (
        [orjson.dumps(LINE).replace(b'"text 1"', b"NaN")], "invalid_json_line", 1, None,
    ),
    "deep lists": ([b"[" * 100_000], "invalid_json_line", 1, None),
    "a deep body": (
        [orjson.dumps(LINE).replace(b'"text 1"', b"[" * 300 + b"]" * 300)],
        "invalid_json_line", 1, None,
    ),
    "an id given twice": ([LINE, b"", LINE], "duplicate_custom_id", 3, "custom_id"),
    "no id": ([{k: v for k, v in LINE.items() if k != "custom_id"}],
        "missing_required_parameter", 1, "custom_id"),
    "an empty id": ([LINE | {"custom_id": ""}], "invalid_custom_id", 1, "custom_id"),
    "a long id": ([LINE | {"custom_id": "a" * 513}], "invalid_custom_id", 1, "custom_id"),
    "an id that is a number": ([LINE | {"custom_id": 1}], "invalid_custom_id", 1, "custom_id"),
    "another method": ([LINE | {"method": "GET"}], "invalid_method", 1, "method"),
    "another route": ([LINE | {"url": "/v1/chat/completions"}], "invalid_url", 1, "url"),
    "a route of nobody": ([LINE | {"url": "/v1/admin/users"}], "invalid_url", 1, "url"),
    "no body": ([{k: v for k, v in LINE.items() if k != "body"}],
        "missing_required_parameter", 1, "body"),
    "a body that is a text": ([LINE | {"body": "x"}], "invalid_body", 1, "body"),
    "an unknown field": ([LINE | {"x": 1}], "unknown_parameter", 1, "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_with_a_fault_fails_before_the_first_line_is_asked(
    live_server: LiveServer, ada: httpx2.Client, name: str
) -> None:
    lines, code, number, param = FAULTS[name]

    batch = ended(ada, start(ada, lines or [b" "]))
    job = job_of(ada, batch)

    assert batch["status"] == "failed"
    assert batch["failed_at"] is not None
    fault = batch["errors"]["data"][0]
    assert (fault["code"], fault["line"], fault["param"]) == (code, number, param)
    assert batch["output_file_id"] is batch["error_file_id"] is None
    assert (job["status"], job["error"]["code"]) == ("failed", "batch_failed")
    assert rows(live_server, ada) == []


def test_no_more_than_a_hundred_faults_are_told(ada: httpx2.Client) -> None:
    batch = ended(ada, start(ada, [b"x"] * 1000))

    assert len(batch["errors"]["data"]) == 100


def test_a_file_of_too_many_lines_fails(ada: httpx2.Client) -> None:
    batch = ended(ada, start(ada, embedding_lines(50_001)))

    assert batch["status"] == "failed"
    assert [fault["code"] for fault in batch["errors"]["data"]] == ["too_many_lines"]


@pytest.mark.parametrize(
    ("body", "code"),
    {
        "no file": ({"input_file_id": None}, "invalid_request"),
        "an unknown file": ({"input_file_id": "file-" + "0" * 32}, "file_not_found"),
        "no file's id": ({"input_file_id": "../galley.db"}, "file_not_found"),
        "another route": ({"endpoint": "/v1/classify"}, "invalid_request"),
        "another window": ({"completion_window": "1h"}, "invalid_request"),
        "a short life": (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "invalid_request",
        ),
        "much metadata": ({"metadata": {str(n): "a" for n in range(17)}}, "invalid_request"),
        "an unknown field": ({"x": 1}, "invalid_request"),
    }.values(),
)
def test_what_cannot_become_a_batch_is_refused_at_once(
    ada: httpx2.Client, body: dict[str, Any], code: str
) -> None:
    given = {
        "input_file_id": upload(ada, [LINE]),
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }

    answer = ada.post("/v1/batches", json=given | body)

    assert answer.status_code in {400, 404}, answer.text
    assert answer.json()["error"]["code"] == code
    assert ada.get("/v1/batches").json()["data"] == []


def test_a_file_for_something_else_is_no_batch(ada: httpx2.Client) -> None:
    other = upload(ada, [LINE], purpose="user_data")

    answer = ada.post("/v1/batches", json={"input_file_id": other, "endpoint": "/v1/embeddings"})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_purpose"


def test_nobody_else_sees_cancels_or_feeds_on_a_batch(
    ada: httpx2.Client, eve: httpx2.Client
) -> None:
    file = upload(ada, [LINE])
    batch = ended(ada, start(ada, [LINE]))

    answers = [
        eve.get(f"/v1/batches/{batch['id']}"),
        eve.post(f"/v1/batches/{batch['id']}/cancel"),
        eve.get(f"/v1/files/{batch['output_file_id']}/content"),
        eve.post("/v1/batches", json={"input_file_id": file, "endpoint": "/v1/embeddings"}),
    ]

    assert [answer.status_code for answer in answers] == [404] * 4
    assert eve.get("/v1/batches").json()["data"] == []
    assert [found["id"] for found in ada.get("/v1/batches").json()["data"]] == [batch["id"]]


def test_two_users_with_the_same_lines_get_their_own_answers(
    live_server: LiveServer, ada: httpx2.Client, eve: httpx2.Client
) -> None:
    made = [(user, start(user, embedding_lines(5))) for user in (ada, eve)]

    ids = [ids_of(user, ended(user, batch)) for user, batch in made]

    assert len({*ids[0], *ids[1]}) == 10
    assert len(rows(live_server, ada)) == len(rows(live_server, eve)) == 5


def test_batches_are_listed_in_pages_the_latest_first(ada: httpx2.Client) -> None:
    ids = [start(ada, [LINE])["id"] for _ in range(3)]

    first = ada.get("/v1/batches?limit=2").json()
    rest = ada.get(f"/v1/batches?limit=2&after={first['last_id']}").json()

    assert [batch["id"] for batch in first["data"]] == [ids[2], ids[1]]
    assert [batch["id"] for batch in rest["data"]] == [ids[0]]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert ada.get("/v1/batches?after=x").status_code == 400
    for found in ids:
        ended(ada, {"id": found})


def test_a_cancelled_batch_keeps_what_is_done(live_server: LiveServer, ada: httpx2.Client) -> None:
    lines = [chat_line(str(n), max_tokens=4, temperature=1) for n in range(200)]
    batch = start(ada, lines, "/v1/chat/completions")
    while ada.get(f"/v1/batches/{batch['id']}").json()["request_counts"]["completed"] == 0:
        time.sleep(0.05)

    cancelling = ada.post(f"/v1/batches/{batch['id']}/cancel").json()
    found = ended(ada, batch)
    again = ada.post(f"/v1/batches/{batch['id']}/cancel")

    assert cancelling["status"] == "cancelling"
    assert found["status"] == "cancelled"
    assert found["cancelling_at"] <= found["cancelled_at"]
    done = found["request_counts"]["completed"]
    assert 0 < done < 200
    assert len(content(ada, found["output_file_id"])) == done
    assert {row["state"] for row in rows(live_server, ada)} == {"completed"}
    assert len(rows(live_server, ada)) == done
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "batch_ended"


def test_a_batch_whose_job_is_cancelled_is_cancelled_with_what_is_done(
    ada: httpx2.Client,
) -> None:
    lines = [chat_line(str(n), max_tokens=4, temperature=1) for n in range(200)]
    batch = start(ada, lines, "/v1/chat/completions")
    while ada.get(f"/v1/batches/{batch['id']}").json()["request_counts"]["completed"] == 0:
        time.sleep(0.05)

    ada.delete(f"/v1/jobs/{batch['id'].removeprefix('batch_')}")
    found = ended(ada, batch)

    assert found["status"] == "cancelled"
    assert len(content(ada, found["output_file_id"])) == found["request_counts"]["completed"] > 0


def test_a_batch_may_be_made_as_a_job(ada: httpx2.Client) -> None:
    params = {"input_file_id": upload(ada, [LINE]), "endpoint": "/v1/embeddings"}

    made = ada.post("/v1/process", json={"task": "run_batch", "params": params})
    while (job := ada.get(made.headers["location"]).json())["status"] != "succeeded":
        assert job["status"] in {"queued", "running"}
    batch = ada.get(f"/v1/batches/{job['result']['batch_id']}").json()

    assert batch["status"] == "completed"
    assert job["result"]["output_file_id"] == batch["output_file_id"]


def test_who_may_not_ask_a_question_may_not_ask_many(
    live_server: LiveServer, ada: httpx2.Client
) -> None:
    file = upload(ada, [LINE])
    scopes = ["files", "jobs", "chat"]
    key = ada.post("/v1/keys", json={"name": "narrow", "scopes": scopes}).json()["key"]

    answer = ada.post(
        "/v1/batches",
        json={"input_file_id": file, "endpoint": "/v1/embeddings"},
        headers={"authorization": f"Bearer {key}"},
    )

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "missing_scope"


def test_lines_wait_for_each_other_where_only_one_request_may_run(
    live_server: LiveServer,
) -> None:
    (user,) = [live_server.key_of_new_user(limits={"concurrency": 1})]
    for client in client_of(live_server, user):
        both = [start(client, embedding_lines(20)) for _ in range(2)]

        found = [ended(client, batch) for batch in both]

        assert [batch["request_counts"]["completed"] for batch in found] == [20, 20]
        assert [row["state"] for row in rows(live_server, client)] == ["completed"] * 40


def test_lines_over_a_limit_wait_instead_of_failing(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"requests_per_minute": 2})
    for client in client_of(live_server, key):
        batch = start(client, embedding_lines(5))
        path = f"/v1/jobs/{batch['id'].removeprefix('batch_')}"
        while (job := client.get(path).json())["error"] is None:
            assert job["status"] in {"queued", "running"}
            time.sleep(0.05)

        found = client.get(f"/v1/batches/{batch['id']}").json()

        assert job["status"] == "queued"
        assert found["status"] == "in_progress"
        assert found["request_counts"] == {"total": 5, "completed": 2, "failed": 0}
        assert [row["state"] for row in rows(live_server, client)] == ["completed"] * 2
        client.delete(path)
        assert ended(client, batch)["request_counts"]["completed"] == 2


def test_a_batch_that_waits_for_a_limit_is_cancelled_at_once(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"requests_per_day": 2})
    for client in client_of(live_server, key):
        batch = start(client, embedding_lines(5))
        path = f"/v1/jobs/{batch['id'].removeprefix('batch_')}"
        while client.get(path).json()["error"] is None:
            time.sleep(0.05)

        client.post(f"/v1/batches/{batch['id']}/cancel")

        found = ended(client, batch)
        assert found["status"] == "cancelled"
        assert found["request_counts"] == {"total": 5, "completed": 2, "failed": 0}


def test_a_batch_file_reads_like_the_lines_it_was_made_of() -> None:
    assert jsonl([{"a": 1}, b"x"]) == b'{"a":1}\nx\n'
