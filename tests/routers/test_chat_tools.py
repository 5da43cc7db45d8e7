"""Tools in chat completions, with a model whose template has none."""

import json
from typing import Any

import httpx2
import pytest

from tests.serving import LiveServer
from tests.sse import DONE, read_events

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["CET", "UTC"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
        }
    ],
}


def ask(server: LiveServer, **changes: Any) -> httpx2.Response:
    body: dict[str, Any] = {
        "model": "galley/chat",
        "messages": [QUESTION],
        "tools": [WEATHER, CLOCK],
        "max_tokens": 60,
        "temperature": 0,
    }
    return server.post("/v1/chat/completions", **body | changes)


def test_a_required_call_is_one_of_the_tools_with_fitting_arguments(
    live_server: LiveServer,
) -> None:
    answer = ask(live_server, tool_choice="required")

    (choice,) = answer.json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert set(call) == {"id", "type", "function"}
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    arguments = json.loads(call["function"]["arguments"])
    wanted = {"get_weather": {"city"}, "get_time": {"zone"}}
    assert set(arguments) == wanted[call["function"]["name"]]


def test_a_named_tool_is_the_one_that_is_called(live_server: LiveServer) -> None:
    named = {"type": "function", "function": {"name": "get_time"}}

    answer = ask(live_server, tool_choice=named)

    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_time"
    assert json.loads(call["function"]["arguments"])["zone"] in {"CET", "UTC"}


def test_a_streamed_call_joins_to_the_whole_one(live_server: LiveServer) -> None:
    whole = ask(live_server, tools=[WEATHER], tool_choice="required").json()

    answer = ask(live_server, tools=[WEATHER], tool_choice="required", stream=True)

    *chunks, end = read_events(answer)
    choices = [chunk["choices"][0] for chunk in chunks]
    pieces = [call for c in choices for call in c["delta"].get("tool_calls", [])]
    assert end == DONE
    assert choices[0]["delta"]["role"] == "assistant"
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert all(piece["index"] == 0 for piece in pieces)
    assert (pieces[0]["type"], pieces[0]["function"]["name"]) == ("function", "get_weather")
    (expected,) = whole["choices"][0]["message"]["tool_calls"]
    joined = "".join(piece["function"]["arguments"] for piece in pieces)
    assert joined == expected["function"]["arguments"]


@pytest.mark.parametrize("choice", ["auto", None])
def test_the_model_may_answer_in_words(live_server: LiveServer, choice: str | None) -> None:
    answer = ask(live_server, tool_choice=choice, max_tokens=12)

    (found,) = answer.json()["choices"]
    assert found["message"]["content"] or found["message"]["tool_calls"]
    unhelped = ask(live_server, tools=None, max_tokens=1).json()["usage"]["prompt_tokens"]
    assert answer.json()["usage"]["prompt_tokens"] > unhelped + 20, "it was told of the tools"


def test_tools_that_may_not_be_called_are_not_mentioned(live_server: LiveServer) -> None:
    answer = ask(live_server, tool_choice="none", max_tokens=8)

    without = ask(live_server, tools=None, max_tokens=8)
    assert answer.json()["choices"] == without.json()["choices"]
    assert answer.json()["usage"]["prompt_tokens"] == without.json()["usage"]["prompt_tokens"]


def test_a_tool_that_runs_elsewhere_is_recorded_and_not_mentioned(live_server: LiveServer) -> None:
    search = {"type": "web_search", "filters": {"allowed_domains": ["example.org"]}}

    answer = ask(live_server, tools=[search], max_tokens=8)
    beside = ask(live_server, tools=[WEATHER, search], tool_choice="required")

    without = ask(live_server, tools=None, max_tokens=8)
    assert answer.json()["usage"]["prompt_tokens"] == without.json()["usage"]["prompt_tokens"]
    assert live_server.row(answer)["ignored_fields"] == "tools[0]"
    (call,) = beside.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert live_server.row(beside)["ignored_fields"] == "tools[1]"


@pytest.mark.parametrize("degrees", [8, 17, 23])
def test_the_result_of_a_call_is_read(live_server: LiveServer, degrees: int) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": f"{degrees} degrees"}
    # A model this small would rather call again; held to a shape, it says what it read.
    number = {"type": "object", "properties": {"degrees": {"type": "integer"}}}
    shape = {"name": "weather", "schema": number | {"required": ["degrees"]}}

    answer = ask(
        live_server,
        messages=[QUESTION, CALLED, result],
        response_format={"type": "json_schema", "json_schema": shape},
        max_tokens=20,
    )

    assert json.loads(answer.json()["choices"][0]["message"]["content"])["degrees"] == degrees


def test_each_of_several_answers_has_a_call_of_its_own(live_server: LiveServer) -> None:
    answer = ask(live_server, tool_choice="required", tools=[WEATHER], n=2)

    calls = [choice["message"]["tool_calls"][0] for choice in answer.json()["choices"]]
    assert calls[0]["id"] != calls[1]["id"]
    assert all(call["function"]["name"] == "get_weather" for call in calls)


def test_parameters_may_refer_to_their_own_definitions(live_server: LiveServer) -> None:
    parameters = {
        "$defs": {"City": {"enum": ["Paris", "Oslo"]}},
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/City"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}

    alone = ask(live_server, tools=[tool], tool_choice="required")
    among_others = ask(
        live_server,
        tools=[CLOCK, tool],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    either = ask(live_server, tools=[CLOCK, tool], tool_choice="required")

    for answer in (alone, among_others):
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"])["city"] in {"Paris", "Oslo"}
    assert either.json()["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": None, "tool_choice": "required"}, None),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, None),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, None),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"messages": [QUESTION, {"role": "tool", "content": "17"}]}, "messages[1]"),
        ({"tool_choice": "always"}, "tool_choice"),
    ],
)
def test_tools_that_do_not_fit_together_are_refused(
    live_server: LiveServer, changes: dict[str, Any], param: str | None
) -> None:
    refused = ask(live_server, **changes)

    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] == param
