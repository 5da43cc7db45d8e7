"""Messages by models that another server runs, which speaks OpenAI's API and may break off."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.loopback import HANG, events, http, scripted_server
from tests.routers.test_far_models import far
from tests.serving import LiveServer, serving
from tests.upstream import misbehaving
from tests.upstream_faults import internal_error

HELLO = {"role": "user", "content": "Hello"}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def chunk(delta: dict[str, Any], **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": None} | more
    return json.dumps({"choices": [choice]})


PATIENCE = {"request_timeout": 1.0}  # seconds
USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
DONE = [chunk({}, finish_reason="stop"), USAGE, "[DONE]"]


def ask(server: LiveServer, **changes: Any) -> httpx2.Response:
    server.until_ready()
    body: dict[str, Any] = {"model": "far", "messages": [HELLO], "max_tokens": 50}
    return server.post("/v1/messages", **body | changes)


def test_what_is_asked_in_anthropics_shape_is_sent_on_in_openais(tmp_path: Path) -> None:
    with (
        scripted_server(events(chunk({"content": "Hey"}), *DONE)) as upstream,
        serving(far(upstream.base_url, tmp_path)) as server,
    ):
        answer = ask(server, system="Be brief.", stop_sequences=["END"], top_k=5)
        row = server.row(answer)

    sent = json.loads(upstream.requests[0].partition(b"\r\n\r\n")[2])
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, HELLO]
    assert (sent["max_tokens"], sent["stop"], sent["top_k"]) == (50, ["END"], 5)
    assert answer.json()["content"] == [{"type": "text", "text": "Hey"}]
    assert answer.json()["usage"] == {
        "input_tokens": 9, "output_tokens": 3,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
    }  # fmt: skip
    assert (row["prompt_tokens"], row["completion_tokens"]) == (9, 3)


def test_a_model_that_thinks_is_heard(tmp_path: Path) -> None:
    with (
        scripted_server(
            events(chunk({"reasoning_content": "Hm."}), chunk({"content": "A cat."}), *DONE)
        ) as upstream,
        serving(far(upstream.base_url, tmp_path)) as server,
    ):
        answer = ask(server)

    assert [block["type"] for block in answer.json()["content"]] == ["thinking", "text"]


def test_the_stop_sequence_that_vllm_names_is_passed_on(tmp_path: Path) -> None:
    ended = chunk({}, finish_reason="stop", stop_reason="END")
    with (
        scripted_server(events(chunk({"content": "Hey"}), ended, "[DONE]")) as upstream,
        serving(far(upstream.base_url, tmp_path)) as server,
    ):
        answer = ask(server, stop_sequences=["END"]).json()

    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize(
    ("parts", "kind", "code", "status"),
    [
        ([], "overloaded_error", "engine_unavailable", 503),
        ([HANG], "timeout_error", "timeout", 504),
        ([b'data: {"error": "my secret"}\n\n'], "api_error", "engine_error", 502),
    ],
    ids=["cut", "hang", "failure"],
)
def test_a_stream_that_fails_ends_with_an_error_event_and_is_billed_so_far(
    tmp_path: Path, parts: list[bytes], kind: str, code: str, status: int
) -> None:
    begun = HEAD + f"data: {chunk({'content': 'Hey'})}\n\n".encode()
    with (
        scripted_server([begun, *parts]) as upstream,
        serving(far(upstream.base_url, tmp_path).model_copy(update=PATIENCE)) as server,
    ):
        answer = ask(server, stream=True)
        row = server.row(answer)

    *_, last, rest = answer.text.split("\n\n")
    name, data = last.split("\n")
    error = json.loads(data.removeprefix("data: "))
    assert (answer.status_code, rest, name) == (200, "", "event: error")
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert error["error"]["details"]["error_code"] == code
    assert error["request_id"] == answer.headers["request-id"]
    assert "secret" not in answer.text
    assert "message_stop" not in answer.text
    assert (row["state"], row["status"], row["completion_tokens"]) == ("failed", status, 1)


def test_before_the_first_piece_a_stream_fails_as_any_other_request(tmp_path: Path) -> None:
    with (
        misbehaving(internal_error) as upstream,
        serving(far(upstream.url.removesuffix("/v1"), tmp_path)) as server,
    ):
        answer = ask(server, stream=True)

    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "api_error"


@pytest.mark.parametrize(
    ("counted", "status", "said"),
    [
        (http('{"input_tokens": 12, "object": "response.input_tokens"}'), 200, '"input_tokens":12'),
        (http("{}", status="404 Not Found"), 400, "does not count tokens"),
        (http("nonsense"), 400, "does not count tokens"),
        (http("[]"), 400, "does not count tokens"),
    ],
    ids=["llama.cpp", "unknown", "nonsense", "list"],
)
def test_another_server_counts_where_it_can(
    tmp_path: Path, counted: bytes, status: int, said: str
) -> None:
    with (
        scripted_server(counted) as upstream,
        serving(far(upstream.base_url, tmp_path)) as server,
    ):
        server.until_ready()
        answer = server.post("/v1/messages/count_tokens", model="far", messages=[HELLO])

    assert answer.status_code == status
    assert said in answer.text
    assert b"POST /v1/chat/completions/input_tokens " in upstream.requests[0]
