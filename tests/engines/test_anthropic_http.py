"""Servers that speak Anthropic's API: what they are asked, and what they answer."""

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import message_create_params
from pydantic import TypeAdapter

from galley.core.errors import BadRequestError, EngineError, OverloadedError
from galley.engines.anthropic_http import AnthropicHttpEngine
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta, ToolCall, Usage
from tests.upstream import PROMPT_TOKENS, Behaviour, Call, misbehaving, well

pytestmark = pytest.mark.anyio

HI = {"role": "user", "content": "Hi"}
PIXEL = "data:image/png;base64,AAAA"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


def asking(**changes: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "ours", "messages": [HI]} | changes)


def replying(*events: dict[str, Any]) -> Behaviour:
    async def behaviour(call: Call) -> None:
        await call.begin()
        await call.events(*map(json.dumps, events))

    return behaviour


async def ask(
    request: ChatRequest, behaviour: Behaviour = well, *, choice: int = 0
) -> tuple[list[Delta], Call]:
    """Return the answer and what the other side was asked."""
    with misbehaving(behaviour) as server:
        engine = AnthropicHttpEngine(server.url, "theirs", api_key="secret", slots=4)
        try:
            await engine.check(request)
            deltas = [
                delta async for pieces in engine.stream(request, choice=choice) for delta in pieces
            ]
        finally:
            await engine.aclose()
        return deltas, server.calls[0]


async def test_the_other_side_gets_its_own_models_name_its_key_and_its_version() -> None:
    _, call = await ask(asking())

    assert call.path == "/v1/messages"
    assert call.headers["x-api-key"] == "secret"
    assert call.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in call.headers
    assert call.body == {
        "model": "theirs",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_tokens": 4096,
        "stream": True,
    }


async def test_what_both_know_is_said_in_their_words() -> None:
    _, call = await ask(
        asking(
            max_completion_tokens=9, temperature=1.5, top_p=0.5, top_k=3, stop="END",
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"type": "object"}},
            },
        )
    )  # fmt: skip

    told = {k: v for k, v in call.body.items() if k not in ("model", "messages", "stream")}
    schema = {"type": "json_schema", "schema": {"type": "object"}}
    assert told == {
        "max_tokens": 9, "temperature": 1.0, "top_p": 0.5, "top_k": 3,
        "stop_sequences": ["END"], "output_config": {"format": schema},
    }  # fmt: skip


async def test_a_conversation_with_tools_and_pictures_is_one_of_turns_and_blocks() -> None:
    calls = [
        {"id": "a", "function": {"name": "weather", "arguments": '{"place": "Bern"}'}},
        {"id": "b", "function": {"name": "weather", "arguments": ""}},
    ]
    seen = {"type": "image_url", "image_url": {"url": PIXEL}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, seen]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "Rain"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {"role": "developer", "content": "In French."},
        {"role": "user", "content": "And?"},
    ]

    _, call = await ask(
        asking(messages=messages, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False)
    )

    picture = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert call.body["system"] == "Be brief.\n\nIn French."
    assert call.body["messages"] == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look:"}, {"type": "image", "source": picture}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "a", "name": "weather", "input": {"place": "Bern"}},
                {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "a",
                    "content": [{"type": "text", "text": "Rain"}],
                },
                {"type": "tool_result", "tool_use_id": "b", "content": []},
                {"type": "text", "text": "And?"},
            ],
        },
    ]
    assert call.body["tools"] == [
        {
            "name": "weather",
            "description": "Tells it.",
            "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
        }
    ]
    assert call.body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


async def test_every_body_is_one_that_anthropics_own_types_take() -> None:
    bare = {"type": "function", "function": {"name": "weather"}}
    named = {"type": "function", "function": {"name": "weather"}}
    shape = TypeAdapter(message_create_params.MessageCreateParamsStreaming)

    for more in ({}, {"tool_choice": named}, {"tool_choice": "required"}, {"tool_choice": "none"}):
        _, call = await ask(asking(tools=[bare], parallel_tool_calls=False, **more))

        shape.validate_python(call.body)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, None),
        ({"parallel_tool_calls": True}, None),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {"type": "tool", "name": "weather"},
        ),
    ],
)
async def test_the_choice_of_tools_is_theirs_by_another_name(
    asked: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    _, call = await ask(asking(tools=[WEATHER], **asked))

    assert call.body.get("tool_choice") == sent


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"seed": 1}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -0.5}, "presence_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [HI | {"name": "Ada"}]}, "messages[0].name"),
        ({"messages": [HI, {"role": "assistant", "content": "Well"}]}, "messages"),
    ],
)
async def test_what_they_have_no_word_for_is_refused_by_name(
    changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        await ask(asking(**changes))

    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)


async def test_a_penalty_of_nothing_is_none() -> None:
    _, call = await ask(asking(presence_penalty=0, frequency_penalty=0, logprobs=False))

    assert not {"presence_penalty", "frequency_penalty", "logprobs"} & set(call.body)


async def test_a_call_whose_arguments_are_no_object_is_refused() -> None:
    calls = [{"id": "a", "function": {"name": "f", "arguments": "[1]"}}]
    turns = [HI, {"role": "assistant", "tool_calls": calls}, HI]

    with pytest.raises(BadRequestError, match="'a'"):
        await ask(asking(messages=turns))


async def test_completions_are_not_what_they_offer() -> None:
    with misbehaving() as server:
        engine = AnthropicHttpEngine(server.url, "theirs", api_key=None, slots=1)

        with pytest.raises(BadRequestError) as refused:
            await engine.check(CompletionRequest(model="m", prompt="Once"))
        await engine.aclose()

    assert refused.value.code == "wrong_model_kind"


def start(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"usage": usage}}


def block(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def gains(index: int, **delta: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stopped(reason: str, sequence: str | None = None, **usage: int) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


async def test_thoughts_text_and_calls_become_pieces_with_usage() -> None:
    events = [
        start(input_tokens=5, cache_read_input_tokens=3, cache_creation_input_tokens=2),
        block(0, type="thinking", thinking=""),
        gains(0, type="thinking_delta", thinking="Hm."),
        gains(0, type="signature_delta", signature="AAAA"),
        {"type": "content_block_stop", "index": 0},
        block(1, type="redacted_thinking", data="AAAA"),
        block(2, type="text", text=""),
        gains(2, type="text_delta", text="Hey"),
        {"type": "ping"},
        {"type": "something_new"},
        block(3, type="tool_use", id="a", name="weather", input={}),
        gains(3, type="input_json_delta", partial_json=""),
        gains(3, type="input_json_delta", partial_json='{"place":'),
        gains(3, type="input_json_delta", partial_json='"Bern"}'),
        {"type": "content_block_stop", "index": 3},
        block(4, type="tool_use", id="b", name="now", input={}),
        {"type": "content_block_stop", "index": 4},
        *stopped("tool_use", output_tokens=20),
    ]

    deltas, _ = await ask(asking(), replying(*events), choice=2)

    assert {delta.index for delta in deltas} == {2}
    assert [delta.reasoning for delta in deltas if delta.reasoning] == ["Hm."]
    assert [delta.text for delta in deltas if delta.text] == ["Hey"]
    assert [call for delta in deltas for call in delta.tool_calls] == [
        ToolCall(0, "a", "weather"),
        ToolCall(0, arguments='{"place":'),
        ToolCall(0, arguments='"Bern"}'),
        ToolCall(1, "b", "now"),
        ToolCall(1, arguments="{}"),
    ]
    assert deltas[0].usage == Usage(prompt_tokens=10, completion_tokens=0, cached_tokens=3)
    assert deltas[-1].usage == Usage(prompt_tokens=10, completion_tokens=20, cached_tokens=3)
    assert deltas[-1].finish_reason == "tool_calls"
    assert all(d.tokens for d in deltas if d.text or d.reasoning or d.tool_calls)


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
async def test_reasons_to_stop_are_named_as_openai_names_them(reason: str, ours: str) -> None:
    deltas, _ = await ask(asking(), replying(start(), *stopped(reason, "END")))

    assert deltas[-1].finish_reason == ours
    assert deltas[-1].stop_sequence == "END"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": "0", "delta": {"text": "a"}},
        {"type": "content_block_delta", "index": 0, "delta": {"text": 1}},
        {"type": "content_block_delta", "index": 0, "delta": ["a"]},
        {"type": "content_block_delta", "index": 0, "delta": {"partial_json": "{"}},
        {"type": "message_start", "message": {"usage": {"input_tokens": -1}}},
        {"type": "message_delta", "delta": {"stop_reason": 1}},
    ],
)
async def test_an_event_of_another_shape_is_the_engines_failure(event: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        await ask(asking(), replying(start(), event, *stopped("end_turn")))


async def test_an_overload_in_the_middle_is_one() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

    with pytest.raises(OverloadedError):
        await ask(asking(), replying(start(), error))


async def test_a_prompt_that_is_too_long_over_there_has_the_same_code() -> None:
    async def refuse(call: Call) -> None:
        said = "prompt is too long: 9000 tokens > 8000 maximum"
        error = {"type": "invalid_request_error", "message": said}
        await call.whole(400, {"type": "error", "error": error})

    with pytest.raises(BadRequestError, match="9000") as refused:
        await ask(asking(), refuse)

    assert refused.value.code == "context_length_exceeded"


async def test_tokens_are_counted_by_the_other_side() -> None:
    with misbehaving() as server:
        engine = AnthropicHttpEngine(server.url, "theirs", api_key="secret", slots=4)

        counted = await engine.count(asking(tools=[WEATHER], max_tokens=5))
        await engine.aclose()

    assert counted == PROMPT_TOKENS
    assert server.calls[0].path == "/v1/messages/count_tokens"
    assert set(server.calls[0].body) == {"model", "messages", "tools"}


async def test_the_engine_asks_for_what_anthropics_own_client_asks_for() -> None:
    with misbehaving() as server:
        engine = AnthropicHttpEngine(server.url, "theirs", api_key="secret", slots=4)
        _ = [delta async for pieces in engine.stream(asking()) for delta in pieces]
        await engine.aclose()
        with anthropic.Anthropic(
            api_key="secret", base_url=server.url.removesuffix("/v1")
        ) as client:
            messages: Any = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
            with client.messages.stream(
                max_tokens=4096, messages=messages, model="theirs"
            ) as stream:
                stream.until_done()

    ours, theirs = server.calls
    assert (ours.path, ours.body) == (theirs.path, theirs.body)
