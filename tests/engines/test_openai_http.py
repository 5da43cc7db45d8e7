"""Other people's servers, which may answer anything at any time."""

import asyncio
import json
from typing import Any

import pytest

from galley.core.errors import BadRequestError, EngineError, GalleyError, OverloadedError
from galley.engines.openai_http import OpenAIHttpEngine
from galley.schemas.chat import ChatRequest
from galley.schemas.delta import Delta, Usage
from tests.loopback import HANG, events, http, scripted_server

pytestmark = pytest.mark.anyio


def asking(**changes: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "Hi"}]
    return ChatRequest.model_validate({"model": "ours", "messages": messages} | changes)


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    return json.dumps({"choices": choices} | more)


async def answer(url: str, request: ChatRequest, choice: int = 0) -> list[Delta]:
    engine = OpenAIHttpEngine(f"{url}/v1", "theirs", api_key="secret", slots=4)
    try:
        return [delta async for delta in engine.stream(request, choice=choice)]
    finally:
        await engine.aclose()


async def test_a_stream_becomes_deltas_with_usage() -> None:
    done = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None}
    stream = events(chunk({"content": "Hey"}), done, chunk(usage=usage), "[DONE]")
    with scripted_server(stream) as server:
        deltas = await answer(server.base_url, asking(), choice=3)

    assert [delta.text for delta in deltas] == ["Hey", "", ""]
    assert {delta.index for delta in deltas} == {3}
    assert deltas[1].finish_reason == "stop"
    assert deltas[2].usage == Usage(prompt_tokens=9, completion_tokens=1)


async def test_who_hangs_up_before_the_count_comes_has_had_the_prompt_read_all_the_same() -> None:
    usage = {"prompt_tokens": 9_000, "completion_tokens": 2}
    stream = events(
        chunk({"role": "assistant"}), chunk({"content": "Hey"}), chunk({"content": "!"}),
        chunk(usage=usage), "[DONE]",
    )  # fmt: skip
    long = [{"role": "user", "content": "a word " * 5_000}]
    with scripted_server(stream) as server:
        role, first, second, counted = await answer(server.base_url, asking(messages=long))

    assert (role.usage, second.usage) == (None, None)
    assert first.usage
    assert 8_750 <= first.usage.prompt_tokens < 9_000
    assert counted.usage == Usage(prompt_tokens=9_000, completion_tokens=2)


async def test_what_a_thinking_model_says_to_itself_is_kept_and_counted() -> None:
    stream = events(chunk({"reasoning_content": "Hm."}), chunk({"content": "Hey"}), "[DONE]")
    with scripted_server(stream) as server:
        thought, said = await answer(server.base_url, asking())

    assert (thought.reasoning, thought.text, thought.tokens) == ("Hm.", "", 1)
    assert (said.reasoning, said.text) == ("", "Hey")


async def test_the_other_side_gets_its_own_models_name_and_key() -> None:
    with scripted_server(events("[DONE]")) as server:
        await answer(server.base_url, asking(seed=7, stop="END", user="me"), choice=2)

    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions ")
    assert b"bearer secret" in head.lower()
    sent = json.loads(body)
    assert sent["model"] == "theirs"
    assert (sent["seed"], sent["stop"]) == (9, ["END"])
    assert sent["stream_options"] == {"include_usage": True}
    assert "user" not in sent


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        ("429 Too Many Requests", OverloadedError),
        ("503 Service Unavailable", OverloadedError),
        ("500 Internal Server Error", EngineError),
        ("401 Unauthorized", EngineError),
        ("302 Found", EngineError),
    ],
)
async def test_their_troubles_become_ours_without_their_secrets(
    status: str, raised: type[GalleyError]
) -> None:
    body = json.dumps({"error": {"message": "Incorrect API key provided: sk-secret"}})
    with scripted_server(http(body, status=status)) as server, pytest.raises(raised) as failure:
        await answer(server.base_url, asking())

    assert "secret" not in failure.value.message


async def test_what_they_say_of_a_request_reaches_who_sent_it() -> None:
    body = json.dumps({"error": {"message": "temperature is too high"}})
    refusal = http(body, status="400 Bad Request")
    with scripted_server(refusal) as server, pytest.raises(BadRequestError, match="too high"):
        await answer(server.base_url, asking())


@pytest.mark.parametrize("status", ["400 Bad Request", "502 Bad Gateway"])
async def test_a_refusal_that_is_no_json_is_still_a_refusal(status: str) -> None:
    page = http("<html>", status=status, type_="text/html")
    with scripted_server(page) as server, pytest.raises((BadRequestError, EngineError)):
        await answer(server.base_url, asking())


async def test_an_error_event_ends_the_stream() -> None:
    stream = events(chunk({"content": "Hey"}), json.dumps({"error": {"message": "out of memory"}}))
    with scripted_server(stream) as server, pytest.raises(EngineError):
        await answer(server.base_url, asking())


async def test_a_stream_that_ends_before_its_answer_is_not_one() -> None:
    stream = events(chunk({"content": "Hey"}))
    with scripted_server(stream) as server, pytest.raises(OverloadedError):
        await answer(server.base_url, asking())


@pytest.mark.parametrize(
    "form", ["data: {}\r\n\r\n", "data:{}\n\n", "event: message\ndata: {}\n\n"]
)
async def test_streams_are_read_in_every_form_that_the_standard_allows(form: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    stream = "".join(form.replace("{}", part) for part in (chunk({"content": "Hey"}), "[DONE]"))
    with scripted_server(head + stream.encode()) as server:
        deltas = await answer(server.base_url, asking())

    assert [delta.text for delta in deltas] == ["Hey"]


async def test_a_stream_that_breaks_off_is_not_an_answer() -> None:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    part = f"data: {chunk({'content': 'Hey'})}\n\n".encode()
    broken = head + b"%x\r\n%b\r\n" % (len(part), part)
    with scripted_server(broken) as server, pytest.raises(OverloadedError):
        await answer(server.base_url, asking())


async def test_an_event_that_is_no_json_is_the_engines_failure() -> None:
    with scripted_server(events("{broken")) as server, pytest.raises(EngineError):
        await answer(server.base_url, asking())


@pytest.mark.parametrize(
    "event",
    [
        "[]",
        "null",
        '"text"',
        '{"choices": [null, 1]}',
        '{"choices": {"delta": 1}}',
        '{"choices": [{"delta": "Hey"}]}',
        '{"choices": [{"delta": {"content": ["Hey"]}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"function": "f"}]}}]}',
        '{"choices": [{"delta": {}, "logprobs": {"content": [{"token": "a"}]}}]}',
        '{"choices": [{"delta": {}, "finish_reason": ["stop"]}]}',
        '{"choices": [], "usage": "no"}',
        '{"choices": [], "usage": {"prompt_tokens": -5}}',
        '{"choices": [], "usage": {"completion_tokens": 1e3}}',
        '{"choices": [], "usage": {"completion_tokens": 9223372036854775807}}',
        '{"choices": [], "prompt_progress": {"processed": "all"}}',
    ],
)
async def test_an_event_of_another_shape_is_the_engines_failure(
    event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(events(event, "[DONE]")) as server, pytest.raises(EngineError):
        await answer(server.base_url, asking())

    logged = capsys.readouterr().out.splitlines()
    assert len(logged) == 1
    assert "engine_failed" in logged[0]


async def test_what_is_null_is_as_good_as_absent() -> None:
    nothing = dict.fromkeys(("content", "reasoning_content", "tool_calls"))
    part = {"delta": nothing, "logprobs": None, "finish_reason": None}
    stream = events(json.dumps({"choices": [part], "usage": None}), '{"choices": null}', "[DONE]")
    with scripted_server(stream) as server:
        deltas = await answer(server.base_url, asking())

    assert deltas == [Delta()]


@pytest.mark.parametrize(
    "limit", [{"max_tokens": 9}, {"max_completion_tokens": 9}, {"max_completion_tokens": None}]
)
async def test_the_longest_answer_is_sent_on_by_the_name_that_the_caller_used(
    limit: dict[str, int | None],
) -> None:
    with scripted_server(events("[DONE]")) as server:
        await answer(server.base_url, asking(**limit))

    sent = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    named = {name: sent.get(name) for name in ("max_tokens", "max_completion_tokens")}
    assert named == {"max_tokens": None, "max_completion_tokens": None} | limit


@pytest.mark.parametrize(
    "error", [{"code": "context_length_exceeded"}, {"type": "exceed_context_size_error"}]
)
async def test_a_prompt_that_is_too_long_over_there_has_the_same_code(
    error: dict[str, str],
) -> None:
    body = json.dumps({"error": {"message": "It has 9000 tokens."} | error})
    refusal = http(body, status="400 Bad Request")
    with scripted_server(refusal) as server, pytest.raises(BadRequestError, match="9000") as failed:
        await answer(server.base_url, asking())

    assert failed.value.code == "context_length_exceeded"


async def test_nobody_there_is_a_503_that_says_so() -> None:
    with scripted_server() as server:
        pass

    with pytest.raises(OverloadedError) as failure:
        await answer(server.base_url, asking())

    assert failure.value.retry_after == 1
    assert failure.value.message == f"Nothing answers at {server.base_url}."


async def test_who_asks_an_engine_that_was_closed_is_told_to_try_again() -> None:
    engine = OpenAIHttpEngine("http://127.0.0.1:1/v1", "theirs", api_key=None, slots=1)
    await engine.aclose()

    with pytest.raises(OverloadedError):
        await anext(engine.stream(asking()))


async def test_closing_the_stream_hangs_up() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    first = f"data: {chunk({'content': 'Hey'})}\n\n".encode()
    with scripted_server([head + first, HANG]) as server:
        engine = OpenAIHttpEngine(f"{server.base_url}/v1", "theirs", api_key=None, slots=1)
        stream = engine.stream(asking())
        await anext(stream)

        await stream.aclose()

        assert await asyncio.to_thread(server.hung_up.wait, 5)
        await engine.aclose()
