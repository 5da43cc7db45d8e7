"""The lines of a file become vectors: the same ones as over HTTP, booked once, faults by line."""

from typing import Any

import httpx2
import orjson
import pytest

from galley.services.embed_files import LONGEST_LINE, TOGETHER
from tests.serving import LiveServer


def upload(server: LiveServer, content: bytes, name: str) -> str:
    files = {"file": (name, content)}
    answer = server.client.post("/v1/files", files=files, data={"purpose": "user_data"})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def embed(server: LiveServer, file_id: str, **params: Any) -> dict[str, Any]:
    """Have the lines of a file embedded; return the job that has ended."""
    answer = server.post("/process", task="embed", params={"file_id": file_id} | params)
    assert answer.status_code == 202, answer.text
    watched = server.client.get(f"{answer.headers['location']}/events")
    *_, last, rest = watched.text.split("\n\n")
    assert rest == ""
    assert "event: end" in last
    return orjson.loads(last.partition("data: ")[2])


def read(server: LiveServer, job: dict[str, Any]) -> list[dict[str, Any]]:
    assert job["status"] == "succeeded", job["error"]
    content = server.client.get(f"/v1/files/{job['result']['file_id']}/content")
    return [orjson.loads(line) for line in content.content.splitlines()]


def test_each_line_has_the_vector_that_it_has_over_http(live_server: LiveServer) -> None:
    texts = [f"sentence number {n}" for n in range(TOGETHER + 2)]
    file_id = upload(live_server, "\n\n".join(texts).encode() + b"\r\n", "sentences.txt")

    job = embed(live_server, file_id)

    lines = read(live_server, job)
    asked = live_server.post("/v1/embeddings", model="galley/embeddings", input=texts).json()
    assert [line["line"] for line in lines] == list(range(1, 2 * len(texts), 2))
    for line, expected in zip(lines, asked["data"], strict=True):
        assert line["embedding"] == pytest.approx(expected["embedding"], abs=1e-5)
    result = job["result"]
    assert (result["texts"], result["failed"]) == (len(texts), 0)
    assert result["prompt_tokens"] == asked["usage"]["prompt_tokens"]
    assert result["filename"] == "sentences.vectors.jsonl"


def test_what_a_job_asked_is_booked_with_its_key(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user()
    with httpx2.Client(base_url=live_server.url, headers={"x-api-key": key}) as client:
        server = LiveServer(live_server.url, key, live_server.settings, live_server.app)
        file_id = upload(server, b"one\ntwo\nthree", "three.txt")
        embed(server, file_id)
        server.client.close()

        (row,) = client.get("/v1/requests").json()["data"]

    assert (row["endpoint"], row["state"], row["units"]) == ("embeddings", "completed", 3)


def test_a_bad_line_does_not_spoil_the_others(live_server: LiveServer) -> None:
    lines = [
        b'{"text": "good", "id": "a"}',
        b'"good as well"',
        b"no json",
        b'{"words": "none"}',
        b'{"text": ""}',
        b'{"text": 5}',
        b'{"text": "x", "id": [1]}',
        b'"\xff"',
        orjson.dumps("long " * 2_000),
        b'"' + b"x" * LONGEST_LINE + b'"',
        b'{"text": "last", "id": 7}',
    ]
    file_id = upload(live_server, b"\n".join(lines), "lines.jsonl")

    job = embed(live_server, file_id)

    found = read(live_server, job)
    good = {line["line"]: line.get("id") for line in found if "embedding" in line}
    assert good == {1: "a", 2: None, 11: 7}
    assert {line["line"] for line in found if "error" in line} == set(range(3, 11))
    assert (job["result"]["texts"], job["result"]["failed"]) == (3, 8)
    codes = {line["line"]: line["error"]["code"] for line in found if "error" in line}
    assert codes[9] == "context_length_exceeded"
    assert codes[3] == codes[8] == codes[10] == "invalid_line"


def test_what_is_too_long_is_cut_where_that_is_asked_for(live_server: LiveServer) -> None:
    file_id = upload(live_server, b"long " * 2_000, "long.txt")

    lines = read(live_server, embed(live_server, file_id, truncate=True, dimensions=8))

    assert [len(line["embedding"]) for line in lines] == [8]


@pytest.mark.parametrize(
    ("params", "code"),
    [({"model": "nothing"}, "model_not_found"), ({"dimensions": 9_999}, "invalid_dimensions")],
)
def test_what_fits_no_line_fails_the_job(
    live_server: LiveServer, params: dict[str, Any], code: str
) -> None:
    file_id = upload(live_server, b"one\ntwo", "two.txt")

    job = embed(live_server, file_id, **params)

    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", code, 1)


def test_a_file_of_nothing_but_blanks_fails_the_job(live_server: LiveServer) -> None:
    job = embed(live_server, upload(live_server, b"\n  \n\r\n", "blank.txt"))

    assert (job["status"], job["error"]["code"]) == ("failed", "empty_file")


def test_the_file_of_another_is_not_there(live_server: LiveServer) -> None:
    file_id = upload(live_server, b"secret", "secret.txt")
    key = live_server.key_of_new_user()
    body = {"task": "embed", "params": {"file_id": file_id}}

    answer = httpx2.post(f"{live_server.url}/v1/process", headers={"x-api-key": key}, json=body)

    assert answer.status_code == 404
