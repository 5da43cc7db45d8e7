"""Responses by models that another server runs, which speaks OpenAI's chat and may break off."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from galley.services.responses import MOST_REFERRED
from tests.loopback import HANG, events, http, scripted_server
from tests.routers.test_far_models import far
from tests.serving import LiveServer, serving
from tests.sse import read_named_events

PATH = "/v1/responses"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def chunk(delta: dict[str, Any], **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": None} | more
    return json.dumps({"choices": [choice]})


PATIENCE = {"request_timeout": 1.0}  # seconds
USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
DONE = [chunk({}, finish_reason="stop"), USAGE, "[DONE]"]
HEY = events(chunk({"content": "Hey"}), *DONE)


def ask(server: LiveServer, **changes: Any) -> httpx2.Response:
    server.until_ready()
    body: dict[str, Any] = {"model": "far", "input": "Hello", "max_output_tokens": 50}
    return server.post(PATH, **body | changes)


def told(request: bytes) -> Any:
    """The JSON that the other server was sent."""
    return json.loads(request.partition(b"\r\n\r\n")[2])


def test_what_a_response_goes_on_from_is_sent_on_in_the_shape_of_chat(tmp_path: Path) -> None:
    thought = events(chunk({"reasoning_content": "Hm."}), chunk({"content": "Hey"}), *DONE)
    with (
        scripted_server(thought, HEY) as upstream,
        serving(far(upstream.base_url, tmp_path)) as server,
    ):
        first = ask(server, instructions="Be brief.").json()
        answer = ask(server, input="And?", previous_response_id=first["id"])
        row = server.row(answer)

    assert [item["type"] for item in first["output"]] == ["reasoning", "message"]
    assert [turn["content"] for turn in told(upstream.requests[0])["messages"]] == [
        "Be brief.", "Hello",
    ]  # fmt: skip
    assert told(upstream.requests[1])["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hey"},
        {"role": "user", "content": "And?"},
    ]
    assert answer.json()["usage"]["total_tokens"] == 12
    assert (row["prompt_tokens"], row["completion_tokens"]) == (9, 3)


@pytest.mark.parametrize(
    ("parts", "code", "status"),
    [
        ([], "engine_unavailable", 503),
        ([HANG], "timeout", 504),
        ([b'data: {"error": "my secret"}\n\n'], "engine_error", 502),
    ],
    ids=["cut", "hang", "failure"],
)
def test_a_stream_that_fails_says_so_is_billed_so_far_and_is_not_kept(
    tmp_path: Path, parts: list[bytes], code: str, status: int
) -> None:
    begun = HEAD + f"data: {chunk({'content': 'Hey'})}\n\n".encode()
    with (
        scripted_server([begun, *parts]) as upstream,
        serving(far(upstream.base_url, tmp_path).model_copy(update=PATIENCE)) as server,
    ):
        answer = ask(server, stream=True)
        row = server.row(answer)
        *_, error, failed = read_named_events(answer)
        lost = server.client.get(f"{PATH}/{failed['response']['id']}")

    assert (error["type"], error["code"]) == ("error", code)
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["code"] == "server_error"
    assert failed["response"]["output"][0]["content"][0]["text"] == "Hey"
    assert failed["sequence_number"] == error["sequence_number"] + 1
    assert "secret" not in answer.text
    assert (row["state"], row["status"], row["completion_tokens"]) == ("failed", status, 1)
    assert lost.status_code == 404


def test_before_the_first_piece_a_stream_fails_as_any_other_request(tmp_path: Path) -> None:
    with (
        scripted_server(*[http("{}", status="500 Internal Server Error")] * 3) as upstream,
        serving(far(upstream.base_url, tmp_path)) as server,
    ):
        answer = ask(server, stream=True)

    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "api_error"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_kept_is_no_answer(tmp_path: Path, stream: bool) -> None:
    async def lose(session: AsyncSession) -> None:
        await session.execute(text("DROP TABLE responses"))

    with (
        scripted_server(HEY, HEY) as upstream,
        serving(far(upstream.base_url, tmp_path)) as server,
    ):
        server.write(lose)
        answer = ask(server, stream=stream)
        row = server.row(answer)
        unkept = ask(server, store=False)

    error = read_named_events(answer)[-2] if stream else answer.json()["error"]
    assert error["code"] == "database_unavailable"
    assert answer.status_code == (200 if stream else 503)
    assert (row["state"], row["status"], row["completion_tokens"]) == ("failed", 503, 3)
    assert unkept.status_code == 200


def test_a_conversation_that_grew_too_large_is_answered_only_if_it_is_not_kept(
    tmp_path: Path,
) -> None:
    small = {"body_limit": 2_000}
    with (
        scripted_server(*[HEY] * 3) as upstream,
        serving(far(upstream.base_url, tmp_path).model_copy(update=small)) as server,
    ):
        first = ask(server, input="x" * 1_000).json()
        more = {"input": "x" * 1_000, "previous_response_id": first["id"]}
        refused = ask(server, **more)
        answer = ask(server, **more, store=False)

    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "request_too_large"
    assert answer.status_code == 200
    assert len(upstream.requests) == 2


def test_items_of_too_many_responses_are_refused(live_server: LiveServer) -> None:
    references = [
        {"type": "item_reference", "id": f"msg_{number:032x}_0"}
        for number in range(MOST_REFERRED + 1)
    ]

    answers = [
        live_server.post(PATH, model="galley/chat", input=references[:count])
        for count in (MOST_REFERRED, MOST_REFERRED + 1)
    ]

    assert [answer.status_code for answer in answers] == [404, 400]
    assert f"more than {MOST_REFERRED} responses" in answers[1].json()["error"]["message"]
