"""Other people's servers, which may answer anything at any time."""

import json
from typing import Any

import pytest

from galley.core.errors import BadRequestError, EngineError, GalleyError, OverloadedError
from galley.engines.openai_http import OpenAIHttpEngine
from galley.schemas.chat import ChatRequest
from galley.schemas.delta import Delta, Usage
from tests.loopback import events, http, scripted_server

pytestmark = pytest.mark.anyio


def asking(**changes: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "Hi"}]
    return ChatRequest.model_validate({"model": "ours", "messages": messages} | changes)


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    return json.dumps({"choices": choices} | more)


SAID = events(chunk({"content": "Hey"}), "[DONE]")


async def answer(
    url: str, request: ChatRequest, choice: int = 0, api_key: str | None = "secret"
) -> list[Delta]:
    engine = OpenAIHttpEngine(f"{url}/v1", "theirs", api_key=api_key, slots=4)
    try:
        return [delta async for pieces in engine.stream(request, choice=choice) for delta in pieces]
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


def whole(**more: Any) -> bytes:
    message = {"role": "assistant", "content": "Hey you"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return http(json.dumps({"choices": [choice]} | more))


async def answer_whole(url: str, request: ChatRequest) -> list[Delta]:
    engine = OpenAIHttpEngine(f"{url}/v1", "theirs", api_key=None, slots=4, always_stream=False)
    try:
        return [delta async for pieces in engine.stream(request) for delta in pieces]
    finally:
        await engine.aclose()


async def test_where_that_is_wanted_a_whole_answer_is_asked_for_whole() -> None:
    with scripted_server(whole(usage={"prompt_tokens": 9, "completion_tokens": 2})) as server:
        deltas = await answer_whole(server.base_url, asking())

    assert b'"stream"' not in server.requests[0]
    assert [delta.text for delta in deltas] == ["", "Hey you"]
    assert deltas[0].usage is not None  # what a hang-up is billed, until the count is there
    assert deltas[0].usage.prompt_tokens > 0
    assert deltas[1].finish_reason == "stop"
    assert deltas[1].usage == Usage(prompt_tokens=9, completion_tokens=2)


async def test_a_whole_answer_that_is_not_counted_is_estimated() -> None:
    with scripted_server(whole()) as server:
        deltas = await answer_whole(server.base_url, asking())

    assert deltas[1].usage is not None
    assert deltas[1].usage.completion_tokens == 2


async def test_what_is_no_whole_answer_is_a_failure() -> None:
    for body in (whole(choices=[]), http("{"), http('{"choices": [{"message": {}}]}')):
        with scripted_server(body) as server, pytest.raises(EngineError):
            await answer_whole(server.base_url, asking())


async def test_a_stream_is_asked_for_as_one_all_the_same() -> None:
    done = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    with scripted_server(events(chunk({"content": "Hey"}), done, "[DONE]")) as server:
        deltas = await answer_whole(server.base_url, asking(stream=True))

    assert b'"stream":true' in server.requests[0]
    assert deltas[0].text == "Hey"


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
    with scripted_server(SAID) as server:
        await answer(server.base_url, asking(seed=7, stop="END", user="me"), choice=2)

    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions ")
    assert b"bearer secret" in head.lower()
    sent = json.loads(body)
    assert sent["model"] == "theirs"
    assert (sent["seed"], sent["stop"]) == (9, ["END"])
    assert sent["stream_options"] == {"include_usage": True}
    assert "user" not in sent


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
    empty = json.dumps({"choices": [part], "usage": None})
    stream = events(empty, '{"choices": null}', chunk({"content": "Hey"}), "[DONE]")
    with scripted_server(stream) as server:
        nothing_yet, said = await answer(server.base_url, asking())

    assert nothing_yet == Delta()
    assert said.text == "Hey"


@pytest.mark.parametrize(
    "limit", [{"max_tokens": 9}, {"max_completion_tokens": 9}, {"max_completion_tokens": None}]
)
async def test_the_longest_answer_is_sent_on_by_the_name_that_the_caller_used(
    limit: dict[str, int | None],
) -> None:
    with scripted_server(SAID) as server:
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
    assert failure.value.message == "The model's server does not answer. Try again."


async def test_who_asks_an_engine_that_was_closed_is_told_to_try_again() -> None:
    engine = OpenAIHttpEngine("http://127.0.0.1:1/v1", "theirs", api_key=None, slots=1)
    await engine.aclose()

    with pytest.raises(OverloadedError):
        await anext(engine.stream(asking()))


@pytest.mark.parametrize(
    ("pieces", "numbers"),
    [
        ([{"index": 0, "id": "a"}, {"index": 0}, {"index": 1, "id": "b"}, {"index": 1}], "0011"),
        ([{"id": "a"}, {}, {"id": "b"}, {}], "0011"),
        ([{"index": 0, "id": "a"}, {"index": 0}, {"index": 0, "id": "b"}, {"index": 0}], "0011"),
        ([{"index": 1, "id": "a"}, {"index": 2, "id": "b"}, {"index": 1}, {"index": 2}], "0101"),
        ([{"id": "a"}, {"id": "a"}, {"id": "b"}, {"id": "a"}], "0010"),
        ([{"function": {"name": "f"}}, {}, {"function": {"name": "f"}}, {}], "0011"),
    ],
)
async def test_tool_calls_are_numbered_whatever_numbers_they_come_with(
    pieces: list[dict[str, Any]], numbers: str
) -> None:
    stream = events(*(chunk({"tool_calls": [piece]}) for piece in pieces), "[DONE]")
    with scripted_server(stream) as server:
        deltas = await answer(server.base_url, asking())

    assert "".join(str(delta.tool_calls[0].index) for delta in deltas) == numbers


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ({"code": 400, "message": "too odd"}, BadRequestError),
        ({"code": 503, "message": "loading"}, OverloadedError),
        ({"type": "overloaded_error", "message": "later"}, OverloadedError),
        ({"code": "server_error", "message": "no"}, EngineError),
        ("no", EngineError),
    ],
)
async def test_an_error_within_a_stream_is_what_it_would_have_been_before_it(
    error: Any, raised: type[GalleyError]
) -> None:
    stream = events(chunk({"content": "Hey"}), json.dumps({"error": error}))
    with scripted_server(stream) as server, pytest.raises(raised) as failure:
        await answer(server.base_url, asking())

    assert failure.type is raised


async def test_a_user_and_a_password_in_the_address_are_sent_and_never_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = http("for me:hidden-word", status="500 Internal Server Error")
    with scripted_server(failing) as server, pytest.raises(EngineError):
        await answer(server.base_url.replace("//", "//me:hidden-word@"), asking(), api_key=None)

    assert b"basic bWU6aGlkZGVuLXdvcmQ=".lower() in server.requests[0].lower()
    assert "hidden-word" not in capsys.readouterr().out
