"""Tools for models whose template has none."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from galley.engines import tool_prompt
from galley.schemas.chat import ChatRequest
from galley.schemas.delta import Delta, Usage

pytestmark = pytest.mark.anyio

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}


def asking(**changes: Any) -> ChatRequest:
    given = {
        "model": "m",
        "messages": [{"role": "user", "content": "Rain?"}],
        "tools": [WEATHER, CLOCK],
    }
    return ChatRequest.model_validate(given | changes)


async def spoken(*texts: str) -> AsyncGenerator[list[Delta]]:
    for text in texts:
        yield [Delta(text=text, tokens=1)]
    yield [Delta(finish_reason="stop", usage=Usage(5, len(texts)))]


async def read(*texts: str) -> list[Delta]:
    tools = tool_prompt.offered(asking())
    answer = tool_prompt.read_calls(spoken(*texts), tools, "call_1")
    return [delta async for pieces in answer for delta in pieces]


async def test_an_answer_that_is_a_call_becomes_one() -> None:
    *counts, call, last = await read('{"name": "get_weather", ', '"arguments": {"city": "Oslo"}}')

    assert [delta.tokens for delta in counts] == [1, 1, 0]
    assert counts[-1].usage == Usage(5, 2)
    assert call.tool_calls[0].name == "get_weather"
    assert call.tool_calls[0].arguments == '{"city": "Oslo"}'
    assert call.tool_calls[0].id == "call_1"
    assert (call.text, last.finish_reason) == ("", "tool_calls")


async def test_counts_are_passed_on_while_the_text_is_held_back() -> None:
    tools = tool_prompt.offered(asking())
    answer = tool_prompt.read_calls(spoken('{"name": ', '"x"'), tools, "call_1")

    (first,), (second,) = await anext(answer), await anext(answer)

    assert (first.text, first.tokens, second.text, second.tokens) == ("", 1, "", 1)
    await answer.aclose()


async def test_plain_text_is_passed_on_piece_by_piece() -> None:
    deltas = await read("It ", "rains.")

    assert [delta.text for delta in deltas if delta.text] == ["It ", "rains."]
    assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "unknown_tool", "arguments": {}}',
        '{"name": "get_time", "arguments": "now"}',
        '{"name": ["get_time"], "arguments": {}}',
        '{"name": {"get_time": 1}, "arguments": {}}',
        '{"name": "get_ti',
        "{curly} words",
        '{"name": "get_time", "arguments": {"at": 1e999}}',
        '{"name": "get_time", "arguments": ' + "[" * 3000,
        '{"answer": 42}',
    ],
)
async def test_json_that_is_no_call_of_an_offered_tool_stays_text(text: str) -> None:
    deltas = await read(text)

    assert "".join(delta.text for delta in deltas) == text
    assert not any(delta.tool_calls for delta in deltas)


async def test_numbers_and_characters_that_are_hard_to_write_do_no_harm() -> None:
    text = (
        '{"name": "get_time", "arguments": {"n": 123456789012345678901234567890, "s": "\\ud83d"}}'
    )

    *_, call, _ = await read(text)

    assert json.loads(call.tool_calls[0].arguments)["n"] == 123456789012345678901234567890


def test_a_named_tool_is_the_only_one_offered_and_forced() -> None:
    choice = {"type": "function", "function": {"name": "get_time"}}

    request = asking(tool_choice=choice)

    assert [t.function.name for t in tool_prompt.offered(request)] == ["get_time"]
    assert tool_prompt.is_forced(request)
    schema = tool_prompt.call_schema(tool_prompt.offered(request))
    assert schema["properties"]["name"] == {"const": "get_time"}


def test_any_of_the_tools_may_be_called_when_a_call_is_required() -> None:
    schema = tool_prompt.call_schema(tool_prompt.offered(asking(tool_choice="required")))

    names = [call["properties"]["name"]["const"] for call in schema["anyOf"]]
    assert names == ["get_weather", "get_time"]


def test_tools_are_not_mentioned_when_none_may_be_called() -> None:
    turns = tool_prompt.plain_messages(asking(tool_choice="none"))

    assert turns == [{"role": "user", "content": "Rain?"}]


def test_tools_join_a_system_prompt_that_is_there() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Rain?"},
    ]

    turns = tool_prompt.plain_messages(asking(messages=messages))

    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert turns[0]["content"].startswith("Be brief.")
    assert "get_weather" in turns[0]["content"]


def test_pictures_keep_their_places_for_a_model_that_sees() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}
    text = {"type": "text", "text": "this one"}
    request = asking(
        messages=[
            {"role": "developer", "content": [image]},
            {"role": "user", "content": [image, text, image]},
            {"role": "tool", "content": [image], "tool_call_id": "c1"},
        ]
    )

    tools, *turns = tool_prompt.plain_messages(request)

    assert "get_weather" in tools["content"]
    assert turns == [
        {"role": "system", "content": [image]},
        {"role": "user", "content": [image, text, image]},
        {"role": "user", "content": [{"type": "text", "text": "Result of the tool call:"}, image]},
    ]


def test_calls_and_results_in_the_history_become_turns_that_every_template_knows() -> None:
    call = {"id": "c1", "function": {"name": "get_time", "arguments": '{"zone": "UTC"}'}}
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]

    turns = tool_prompt.plain_messages(asking(messages=messages, tool_choice="none"))

    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == '{"name": "get_time", "arguments": {"zone": "UTC"}}'
    assert "12:00" in turns[2]["content"]
