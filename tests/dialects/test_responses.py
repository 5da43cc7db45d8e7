"""The object and the events of OpenAI's Responses, held to the types of its SDK."""

import re
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from galley.core.errors import BadRequestError, EngineError, GalleyError, RateLimitError
from galley.dialects.responses import ResponseFrames
from galley.schemas.delta import Delta, ToolCall, Usage
from galley.schemas.responses import ResponsesRequest

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = Usage(prompt_tokens=9, completion_tokens=4, cached_tokens=2)
NOW = datetime(2026, 11, 21, 12, 0, 30, 5, tzinfo=UTC)
IDENTITY = "01a1fd26-f236-77c5-8ff0-8175a5757f78"
HEX = IDENTITY.replace("-", "")


def frames_of(**asked: Any) -> ResponseFrames:
    request = ResponsesRequest.model_validate({"model": "m", "input": "hi"} | asked)
    frames = ResponseFrames(IDENTITY, 1795248550, request)
    frames.model = "small"
    return frames


def read(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream: each is named as its type, and what the SDK expects of it."""
    found = re.findall(rb"event: ([\w.]+)\ndata: (.+)\n\n", stream)
    assert b"".join(b"event: %b\ndata: %b\n\n" % pair for pair in found) == stream
    events = [orjson.loads(data) for _, data in found]
    assert [event["type"] for event in events] == [name.decode() for name, _ in found]
    for number, event in enumerate(events):
        hold(EVENT.validate_python(event, strict=True))
        assert event["sequence_number"] == number
    return events


def hold(model: Any) -> None:
    """Every field that the SDK's type needs was there, however deep."""
    if isinstance(model, list):
        for item in model:
            hold(item)
    elif isinstance(model, BaseModel):
        fields = type(model).model_fields.items()
        needed = {name for name, field in fields if field.is_required()}
        assert needed <= model.model_fields_set, type(model)
        for name in model.model_fields_set:
            hold(getattr(model, name))


def written(*deltas: Delta, **asked: Any) -> list[dict[str, Any]]:
    """The events of a whole stream."""
    frames = frames_of(**asked)
    stream = b"".join(frames.frame(delta) for delta in deltas)
    frames.finish(USAGE, NOW)
    return read(stream + frames.last(USAGE))


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def whole(*deltas: Delta, **asked: Any) -> dict[str, Any]:
    frames = frames_of(**asked)
    for delta in deltas:
        frames.add(delta)
    frames.finish(USAGE, NOW)
    hold(Response.model_validate(frames.whole, strict=True))
    return frames.whole


def test_a_delta_that_brings_nothing_writes_nothing() -> None:
    frames = frames_of()

    assert frames.frame(Delta(usage=Usage(3))) == frames.frame(Delta(tokens=1)) == b""


def test_text_comes_in_one_part_of_one_item_between_the_head_and_the_end() -> None:
    events = written(Delta(text="Hey"), Delta(text=" you"), Delta(finish_reason="stop"))

    assert types(events) == [
        "created", "in_progress", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    created, _, added, _, first, second, text, part, item, ended = events
    assert created["response"]["status"] == added["item"]["status"] == "in_progress"
    assert (created["response"]["output"], created["response"]["usage"]) == ([], None)
    assert (first["delta"], second["delta"], text["text"]) == ("Hey", " you", "Hey you")
    assert {event["item_id"] for event in (first, second, text, part)} == {f"msg_{HEX}_0"}
    assert ended["response"]["output"] == [item["item"]] == [
        {
            "id": f"msg_{HEX}_0", "type": "message", "status": "completed", "role": "assistant",
            "content": [part["part"]],
        }
    ]  # fmt: skip
    assert part["part"] == {
        "type": "output_text", "text": "Hey you", "annotations": [], "logprobs": [],
    }  # fmt: skip


def test_odd_text_arrives_as_it_was() -> None:
    odd = 'a "quoted" \\ line\n\u2028 \N{GRINNING FACE} \x00 %d %b'

    assert written(Delta(text=odd))[4]["delta"] == odd


def test_an_answer_without_words_has_a_head_and_an_end() -> None:
    assert types(written()) == ["created", "in_progress", "completed"]
    assert whole()["output"] == []


def test_thoughts_words_and_calls_are_items_one_after_the_other() -> None:
    deltas = (
        Delta(reasoning="Hm", tokens=1),
        Delta(reasoning=".", tokens=1),
        Delta(text="Let me look."),
        Delta(tool_calls=[ToolCall(0, "a", "f", '{"x"')]),
        Delta(tool_calls=[ToolCall(0, None, None, ": 1}")]),
        Delta(tool_calls=[ToolCall(1, "b", "g", "{}")]),
        Delta(finish_reason="tool_calls"),
    )

    events = written(*deltas)

    assert types(events)[2:] == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    output = events[-1]["response"]["output"]
    assert output == [event["item"] for event in events if event["type"].endswith("item.done")]
    assert output == whole(*deltas)["output"]
    thought, said, *calls = output
    assert thought == {
        "id": f"rs_{HEX}_0", "type": "reasoning", "status": "completed", "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}], "encrypted_content": None,
    }  # fmt: skip
    assert (said["type"], said["content"][0]["text"]) == ("message", "Let me look.")
    assert calls == [
        {
            "id": f"fc_{HEX}_2", "type": "function_call", "status": "completed",
            "call_id": "a", "name": "f", "arguments": '{"x": 1}',
        },
        {
            "id": f"fc_{HEX}_3", "type": "function_call", "status": "completed",
            "call_id": "b", "name": "g", "arguments": "{}",
        },
    ]  # fmt: skip
    usage = events[-1]["response"]["usage"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 2}


def test_pieces_of_two_calls_that_come_mixed_find_their_items() -> None:
    events = written(
        Delta(tool_calls=[ToolCall(0, "a", "f", '{"x"')]),
        Delta(tool_calls=[ToolCall(1, "b", "g", "{}")]),
        Delta(tool_calls=[ToolCall(0, arguments=": 1}")]),
    )

    pieces = [(e["output_index"], e["delta"]) for e in events if e["type"].endswith("delta")]
    assert pieces == [(0, '{"x"'), (1, "{}"), (0, ": 1}")]
    done = [e["arguments"] for e in events if e["type"].endswith("arguments.done")]
    assert done == ['{"x": 1}', "{}"]


def test_calls_that_a_server_numbers_alike_are_told_apart_by_their_ids() -> None:
    output = whole(
        Delta(tool_calls=[ToolCall(0, "a", "f", "{}")]),
        Delta(tool_calls=[ToolCall(0, "b", "g", "{}")]),
    )["output"]

    assert [(call["call_id"], call["name"]) for call in output] == [("a", "f"), ("b", "g")]


def test_a_call_without_an_id_gets_one() -> None:
    (call,) = whole(Delta(tool_calls=[ToolCall(0, None, "f", "{}")]))["output"]

    assert call["call_id"] == f"call_{HEX}_0"


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_short_says_so_and_so_does_its_last_item(
    reason: Any, told: str
) -> None:
    deltas = (
        Delta(text="Hey"),
        Delta(tool_calls=[ToolCall(0, "a", "f", "{}"), ToolCall(1, "b", "f", "{")]),
        Delta(finish_reason=reason),
    )

    ended = written(*deltas)[-1]

    assert ended["type"] == "response.incomplete"
    assert ended["response"]["incomplete_details"] == {"reason": told}
    assert ended["response"]["completed_at"] is None
    assert [item["status"] for item in ended["response"]["output"]] == [
        "completed", "completed", "incomplete",
    ]  # fmt: skip


def test_probabilities_come_with_their_text_and_again_with_the_whole() -> None:
    other = {"token": "Ho", "logprob": -2.5, "bytes": [72, 111]}
    first = {"id": 5, "token": "Hé", "logprob": -0.5, "bytes": None, "top_logprobs": [other]}
    second = {"token": "y", "logprob": -1, "bytes": [121]}

    events = written(Delta(text="Hé", logprobs=[first]), Delta(text="y", logprobs=[second]))

    told = [
        {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": [other]},
        {"token": "y", "logprob": -1, "bytes": [121], "top_logprobs": []},
    ]
    assert [e["logprobs"] for e in events if e["type"].endswith("text.delta")] == [
        told[:1], told[1:],
    ]  # fmt: skip
    (done,) = [e for e in events if e["type"].endswith("text.done")]
    assert done["logprobs"] == told
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == told


def test_a_response_repeats_what_was_asked() -> None:
    schema = {"type": "object"}
    tool = {"type": "function", "name": "f", "parameters": schema, "strict": True}
    wanted = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}

    body = whole(
        instructions="Be brief.",
        metadata={"a": "b"},
        tools=[tool, {"type": "web_search"}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": wanted},
        top_logprobs=3,
        max_output_tokens=7,
        previous_response_id="resp_1",
        store=False,
        truncation="auto",
    )

    assert body["tools"] == [tool | {"description": None}]
    assert body["tool_choice"] == {"type": "function", "name": "f"}
    assert body["text"]["format"] == wanted | {"description": None}
    assert (body["instructions"], body["metadata"]) == ("Be brief.", {"a": "b"})
    assert (body["parallel_tool_calls"], body["store"]) == (False, False)
    assert (body["top_logprobs"], body["max_output_tokens"]) == (3, 7)
    assert (body["previous_response_id"], body["truncation"]) == ("resp_1", "disabled")


def test_a_response_has_its_times_model_and_usage() -> None:
    body = whole(Delta(text="Hey"))

    assert (body["id"], body["model"]) == (f"resp_{HEX}", "small")
    assert (body["created_at"], body["completed_at"]) == (1795248550, int(NOW.timestamp()))
    assert body["usage"] == {
        "input_tokens": 9, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 13,
    }  # fmt: skip


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("no", code="engine_error"), "server_error"),
        (RateLimitError("no", code="insufficient_quota"), "rate_limit_exceeded"),
    ],
)
def test_a_stream_that_fails_ends_with_an_error_and_what_there_is_of_the_response(
    error: GalleyError, code: str, begun: bool
) -> None:
    frames = frames_of()
    stream = frames.frame(Delta(text="Hey")) if begun else b""

    events = read(stream + frames.error_event(error, IDENTITY))

    *_, told, failed = events
    assert types(events)[:2] == ["created", "in_progress"]
    assert (told["type"], failed["type"]) == ("error", "response.failed")
    assert (told["code"], told["message"], told["param"]) == (error.code, "no", None)
    assert failed["response"]["error"] == {"code": code, "message": "no"}
    assert [item["status"] for item in failed["response"]["output"]] == ["incomplete"] * begun


@pytest.mark.parametrize(
    ("param", "told"),
    [("messages[2].content", "input"), ("temperature", "temperature"), (None, None)],
)
def test_a_refusal_names_the_field_that_was_sent(param: str | None, told: str | None) -> None:
    error = BadRequestError("no", code="c", param=param)

    body = frames_of().error_body(error, IDENTITY)

    assert body["error"] == {
        "message": "no", "type": "invalid_request_error", "param": told, "code": "c",
    }  # fmt: skip
