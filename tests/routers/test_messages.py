"""Messages, to the letter of Anthropic's API."""

from typing import Any

import httpx2
import pytest

from galley.schemas.messages import AnthropicMessage
from tests.serving import LiveServer
from tests.sse import read_named_events

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
QUESTION = {"role": "user", "content": "What is FastAPI?"}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CLOCK: dict[str, Any] = {
    "name": "get_time",
    "input_schema": {
        "type": "object",
        "properties": {"zone": {"enum": ["CET", "UTC"]}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}
SEARCH = {"type": "web_search_20260209", "name": "web_search", "max_uses": 2}
CALLED = [
    {"role": "user", "content": "What is the weather in Paris?"},
    {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}}
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "17 degrees"}],
    },
]  # fmt: skip


def ask(server: LiveServer, **changes: Any) -> httpx2.Response:
    body: dict[str, Any] = {
        "model": "galley/chat",
        "messages": [QUESTION],
        "max_tokens": 8,
        "temperature": 0,
    }
    return server.post(PATH, **body | changes)


def text_of(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    (block,) = answer.json()["content"]
    return block["text"]


def prompt_of(answer: httpx2.Response) -> int:
    """How long the prompt was, whatever of it was in the cache."""
    usage = answer.json()["usage"]
    return usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_a_whole_message_has_every_field_of_the_api(live_server: LiveServer) -> None:
    answer = ask(live_server)

    body = answer.json()
    AnthropicMessage.model_validate(body)
    assert body["id"] == f"msg_{answer.headers['request-id']}"
    assert (body["type"], body["role"]) == ("message", "assistant")
    assert body["model"] == "smollm2-135m-instruct"
    assert text_of(answer).startswith("FastAPI")
    assert (body["stop_reason"], body["stop_sequence"]) == ("max_tokens", None)
    assert body["usage"]["output_tokens"] == 8


def test_a_streamed_message_joins_to_the_whole_one(live_server: LiveServer) -> None:
    whole = ask(live_server)

    answer = ask(live_server, stream=True)

    events = read_named_events(answer)
    assert [event["type"] for event in events] == [
        "message_start", "content_block_start", "ping", *["content_block_delta"] * 8,
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    start, _, _, *pieces, _, ended, _ = events
    assert start["message"]["id"] == f"msg_{answer.headers['request-id']}"
    assert start["message"]["model"] == "smollm2-135m-instruct"
    assert "".join(piece["delta"]["text"] for piece in pieces) == text_of(whole)
    assert ended["delta"]["stop_reason"] == "max_tokens"
    usage = start["message"]["usage"] | ended["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == prompt_of(whole)
    assert start["message"]["usage"]["cache_read_input_tokens"] == usage["cache_read_input_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_ledger_has_what_the_answer_says(live_server: LiveServer, stream: bool) -> None:
    answer = ask(live_server, stream=stream)

    usage = read_named_events(answer)[-2]["usage"] if stream else answer.json()["usage"]
    row = live_server.row(answer)
    assert (row["endpoint"], row["state"], row["stream"]) == ("messages", "completed", stream)
    assert row["prompt_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert row["cached_tokens"] == usage["cache_read_input_tokens"]
    assert row["completion_tokens"] == usage["output_tokens"] == 8


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_sequence_that_ended_it_is_named(live_server: LiveServer, stream: bool) -> None:
    answer = ask(live_server, stop_sequences=["nothing like it", "API"], stream=stream)

    body = read_named_events(answer)[-2]["delta"] if stream else answer.json()
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "API")
    assert stream or text_of(answer) == "Fast"


def test_an_answer_that_ends_by_itself_has_ended_its_turn(live_server: LiveServer) -> None:
    answer = ask(
        live_server,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=60,
        stop_sequences=["never said"],
    )

    assert (answer.json()["stop_reason"], answer.json()["stop_sequence"]) == ("end_turn", None)


@pytest.mark.parametrize(
    "system", ["Answer in French.", [{"type": "text", "text": "Answer in French."}]]
)
def test_a_system_prompt_is_heard(live_server: LiveServer, system: Any) -> None:
    answer = ask(live_server, system=system)

    assert text_of(answer) != text_of(ask(live_server))


def test_the_likeliest_token_alone_is_no_choice(live_server: LiveServer) -> None:
    answer = ask(live_server, temperature=1, top_k=1)

    assert text_of(answer) == text_of(ask(live_server))


def test_a_required_call_is_one_of_the_tools_with_fitting_input(live_server: LiveServer) -> None:
    answer = ask(live_server, tools=[WEATHER, CLOCK], tool_choice={"type": "any"}, max_tokens=60)

    (block,) = answer.json()["content"]
    wanted = {"get_weather": {"city"}, "get_time": {"zone"}}
    assert (block["type"], set(block["input"])) == ("tool_use", wanted[block["name"]])
    assert answer.json()["stop_reason"] == "tool_use"


def test_a_named_tool_is_the_one_that_is_called(live_server: LiveServer) -> None:
    named = {"type": "tool", "name": "get_time", "disable_parallel_tool_use": True}

    answer = ask(live_server, tools=[WEATHER, CLOCK], tool_choice=named, max_tokens=60)

    (block,) = answer.json()["content"]
    assert block["input"]["zone"] in {"CET", "UTC"}


def test_a_streamed_call_joins_to_the_whole_one(live_server: LiveServer) -> None:
    asked: dict[str, Any] = {
        "tools": [CLOCK], "tool_choice": {"type": "any"}, "max_tokens": 60,
    }  # fmt: skip
    (whole,) = ask(live_server, **asked).json()["content"]

    events = read_named_events(ask(live_server, **asked, stream=True))

    (block,) = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "get_time", {})
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    assert {delta["type"] for delta in deltas} == {"input_json_delta"}
    joined = "".join(delta["partial_json"] for delta in deltas)
    assert httpx2.Response(200, text=joined).json() == whole["input"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_the_result_of_a_call_is_read(live_server: LiveServer) -> None:
    nothing = [{"type": "tool_result", "tool_use_id": "t1", "content": ""}]
    without = [*CALLED[:2], {"role": "user", "content": nothing}]

    read = [
        ask(live_server, messages=messages, tools=[WEATHER], max_tokens=1).json()["usage"]
        for messages in (CALLED, without)
    ]

    assert read[0]["input_tokens"] > read[1]["input_tokens"]


def test_tools_that_may_not_be_called_are_not_mentioned(live_server: LiveServer) -> None:
    answer = ask(live_server, tools=[WEATHER], tool_choice={"type": "none"})

    assert prompt_of(answer) == prompt_of(ask(live_server))


def test_a_tool_of_anthropics_own_is_recorded_and_not_mentioned(live_server: LiveServer) -> None:
    answer = ask(live_server, tools=[SEARCH])
    beside = ask(live_server, tools=[SEARCH, CLOCK], tool_choice={"type": "any"}, max_tokens=60)

    assert prompt_of(answer) == prompt_of(ask(live_server))
    assert live_server.row(answer)["ignored_fields"] == "tools[0]"
    assert beside.json()["content"][0]["name"] == "get_time"


def test_a_schema_shapes_the_answer(live_server: LiveServer) -> None:
    schema = CLOCK["input_schema"]

    answer = ask(
        live_server,
        output_config={"format": {"type": "json_schema", "schema": schema}},
        max_tokens=60,
    )

    assert httpx2.Response(200, text=text_of(answer)).json()["zone"] in {"CET", "UTC"}


def test_fields_without_a_meaning_here_are_accepted_and_recorded(live_server: LiveServer) -> None:
    block = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}

    answer = ask(
        live_server,
        messages=[{"role": "user", "content": [block]}],
        metadata={"user_id": "u-1"},
        service_tier="auto",
        thinking={"type": "enabled", "budget_tokens": 1024},
    )

    assert answer.status_code == 200, answer.text
    recorded = live_server.row(answer)["ignored_fields"]
    assert recorded == "cache_control,metadata,service_tier,thinking"


def test_a_message_can_be_sent_back_as_it_is(live_server: LiveServer) -> None:
    said = ask(live_server).json()
    turn = {"role": said["role"], "content": said["content"]}

    answer = ask(live_server, messages=[QUESTION, turn, {"role": "user", "content": "Go on."}])

    assert text_of(answer)


PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
URL = {"type": "url", "url": "https://example.org/cat.png"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
        ({"mcp_servers": []}, "mcp_servers: Extra inputs are not permitted"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0: a message of role user"),
        ({"messages": [QUESTION, {"role": "assistant", "content": ""}]}, "must end with a user"),
        ({"messages": CALLED[1:2]}, "must end with a user"),
        (
            {"messages": [{"role": "user", "content": CALLED[1]["content"]}]},
            "a tool_use block cannot be in a turn of role user",
        ),
        ({"tools": [WEATHER, CLOCK, WEATHER]}, "two tools have the same name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice 'any' needs tools"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "'f', which is not in tools"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice: name goes with the type 'tool'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": PNG}]}]},
            "Image 1: The image cannot be read",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": URL}]}]},
            "messages.0.content.0.source.type: addresses and uploaded files are not fetched",
        ),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "2048"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_in_anthropics_envelope(
    live_server: LiveServer, changes: dict[str, Any], words: str, stream: bool
) -> None:
    refused = ask(live_server, **changes, stream=stream)

    assert refused.status_code == 400
    body = refused.json()
    assert (body["type"], body["request_id"]) == ("error", refused.headers["request-id"])
    assert body["error"]["type"] == "invalid_request_error"
    assert words in body["error"]["message"]
    assert live_server.row(refused)["state"] == "refused"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system": "Be brief."},
        {"tools": [WEATHER, CLOCK, SEARCH]},
        {"messages": CALLED, "tools": [WEATHER]},
        {"tools": [WEATHER], "tool_choice": {"type": "any"}},
    ],
    ids=str,
)
def test_tokens_are_counted_as_the_answer_counts_them(
    live_server: LiveServer, more: dict[str, Any]
) -> None:
    counted = live_server.post(COUNT, **{"model": "galley/chat", "messages": [QUESTION]} | more)

    assert counted.json() == {"input_tokens": prompt_of(ask(live_server, **more))}


def test_counting_is_a_request_that_takes_no_tokens(live_server: LiveServer) -> None:
    counted = live_server.post(COUNT, model="galley/chat", messages=[QUESTION], thinking={})

    row = live_server.row(counted)
    assert (row["endpoint"], row["state"]) == ("count_tokens", "completed")
    assert row["prompt_tokens"] == row["completion_tokens"] == row["cost"] == 0
    assert row["served_model"] == "smollm2-135m-instruct"
    assert row["ignored_fields"] == "thinking"


def test_a_long_conversation_is_counted_and_a_huge_one_refused(live_server: LiveServer) -> None:
    long, huge = (
        live_server.post(
            COUNT, model="galley/chat", messages=[{"role": "user", "content": "word " * words}]
        )
        for words in (3000, 100_000)
    )

    assert long.json()["input_tokens"] > 3000
    assert huge.status_code == 400
    assert "at least" in huge.json()["error"]["message"]


def test_counting_needs_a_chat_model(live_server: LiveServer) -> None:
    refused = live_server.post(COUNT, model="galley/embeddings", messages=[QUESTION])

    assert refused.status_code == 400
    assert refused.json()["error"]["details"]["error_code"] == "wrong_model_kind"


@pytest.mark.parametrize("name", ["x-api-key", "authorization"])
def test_the_key_comes_in_either_header(live_server: LiveServer, name: str) -> None:
    key = live_server.key if name == "x-api-key" else f"Bearer {live_server.key}"
    headers = {name: key, "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}
    body = {"model": "galley/chat", "messages": [QUESTION]}

    answer = httpx2.post(f"{live_server.url}{COUNT}?beta=true", json=body, headers=headers)

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_over_the_limit_is_refused_with_anthropics_headers(
    live_server: LiveServer, stream: bool
) -> None:
    key = live_server.key_of_new_user(limits={"requests_per_minute": 1})
    body = {"model": "galley/chat", "messages": [QUESTION], "max_tokens": 2, "stream": stream}

    first, refused = (
        live_server.client.post(PATH, json=body, headers={"authorization": f"Bearer {key}"})
        for _ in range(2)
    )

    for answer in (first, refused):
        assert answer.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert answer.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 0 < int(refused.headers["retry-after"]) <= 61


def test_counting_falls_under_the_limit_of_requests(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"requests_per_minute": 1})
    body = {"model": "galley/chat", "messages": [QUESTION]}

    answers = [
        live_server.client.post(COUNT, json=body, headers={"x-api-key": key, "authorization": ""})
        for _ in range(2)
    ]

    assert [answer.status_code for answer in answers] == [200, 429]


def test_a_body_that_is_too_large_is_refused_by_anthropics_name(live_server: LiveServer) -> None:
    refused = ask(live_server, system="x" * 64_000_000)

    assert refused.status_code == 413
    assert refused.json()["error"]["type"] == "request_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", PATH, 405), ("GET", "/api/v1/messages", 405), ("POST", "/v1/messages/nothing", 404)],
)
def test_what_is_no_route_is_said_in_anthropics_envelope(
    live_server: LiveServer, method: str, path: str, status: int
) -> None:
    refused = live_server.client.request(method, path, json={})

    assert refused.status_code == status
    assert refused.json()["type"] == "error"
    assert refused.json()["request_id"] == refused.headers["request-id"]
