"""Anthropic's frames, messages, errors and limits."""

import re
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from galley.core.errors import (
    BadRequestError,
    ConflictError,
    EngineError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
    RequestTooLargeError,
)
from galley.dialects.anthropic import (
    MessageFrames,
    error_body,
    error_event,
    limit_headers,
    message_body,
    model_page,
)
from galley.schemas.account import AnthropicModel
from galley.schemas.delta import Answer, Delta, ToolCall, Usage

USAGE = Usage(prompt_tokens=9, completion_tokens=4, cached_tokens=2)


def written(*deltas: Delta, stops: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The events of a whole stream, each of the type it is named by."""
    frames = MessageFrames("1", "m", stops)
    stream = b"".join(frames.frame(delta) for delta in deltas) + frames.last(USAGE)
    found = re.findall(rb"event: (\w+)\ndata: (.+)\n\n", stream)
    assert b"".join(b"event: %b\ndata: %b\n\n" % pair for pair in found) == stream
    events = [orjson.loads(data) for _, data in found]
    assert [event["type"] for event in events] == [name.decode() for name, _ in found]
    return events


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def whole(answer: Answer, *stops: str) -> dict[str, Any]:
    return message_body("1", "m", answer, USAGE, stops)


def test_a_delta_that_brings_nothing_writes_nothing() -> None:
    frames = MessageFrames("1", "m", ())

    assert frames.frame(Delta(usage=Usage(3))) == frames.frame(Delta(tokens=1)) == b""


def test_text_comes_in_one_block_between_the_head_and_the_reason() -> None:
    events = written(
        Delta(usage=Usage(9, 0, 2)),
        Delta(text="Hey"),
        Delta(text=" you"),
        Delta(finish_reason="length"),
    )

    assert types(events) == [
        "message_start", "content_block_start", "ping", "content_block_delta",
        "content_block_delta", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    start, opened, _, first, second, closed, ended, _ = events
    assert start["message"]["usage"] == {
        "input_tokens": 7, "output_tokens": 0,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2,
    }  # fmt: skip
    assert (start["message"]["content"], start["message"]["stop_reason"]) == ([], None)
    assert opened["content_block"] == {"type": "text", "text": ""}
    assert [part["delta"]["text"] for part in (first, second)] == ["Hey", " you"]
    assert [part["index"] for part in (opened, first, second, closed)] == [0, 0, 0, 0]
    assert ended["delta"]["stop_reason"] == "max_tokens"
    assert ended["usage"]["output_tokens"] == 4


def test_odd_text_arrives_as_it_was() -> None:
    odd = 'a "quoted" \\ line\n\u2028 \N{GRINNING FACE} \x00 %d %b'

    events = written(Delta(text=odd))

    assert events[3]["delta"] == {"type": "text_delta", "text": odd}


def test_an_answer_without_words_has_a_head_and_an_end() -> None:
    assert types(written()) == ["message_start", "message_delta", "message_stop"]
    assert whole(Answer())["content"] == []


def test_thoughts_words_and_calls_are_blocks_one_after_the_other() -> None:
    events = written(
        Delta(reasoning="Hm."),
        Delta(text="Let me look."),
        Delta(tool_calls=[ToolCall(0, "a", "f", '{"x"')]),
        Delta(tool_calls=[ToolCall(0, None, None, ": 1}")]),
        Delta(tool_calls=[ToolCall(1, "b", "g")]),
        Delta(finish_reason="tool_calls"),
    )

    blocks = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert blocks == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
    ]
    deltas = [(e["index"], e["delta"]) for e in events if e["type"] == "content_block_delta"]
    assert deltas == [
        (0, {"type": "thinking_delta", "thinking": "Hm."}),
        (0, {"type": "signature_delta", "signature": ""}),
        (1, {"type": "text_delta", "text": "Let me look."}),
        (2, {"type": "input_json_delta", "partial_json": '{"x"'}),
        (2, {"type": "input_json_delta", "partial_json": ": 1}"}),
    ]
    turns = [
        e["type"] for e in events if e["type"] in ("content_block_start", "content_block_stop")
    ]
    assert turns == ["content_block_start", "content_block_stop"] * 4
    assert types(events).count("ping") == 1
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_calls_that_a_server_numbers_alike_are_told_apart_by_their_ids() -> None:
    events = written(
        Delta(tool_calls=[ToolCall(0, "a", "f", "{}")]),
        Delta(tool_calls=[ToolCall(0, "b", "g", "{}")]),
    )

    opened = [e["content_block"]["id"] for e in events if e["type"] == "content_block_start"]
    assert opened == ["a", "b"]


def test_pieces_of_two_calls_that_come_mixed_find_their_blocks() -> None:
    events = written(
        Delta(tool_calls=[ToolCall(0, "a", "f", '{"x"')]),
        Delta(tool_calls=[ToolCall(1, "b", "g", "{}")]),
        Delta(tool_calls=[ToolCall(0, arguments=": 1}")]),
    )

    assert types(events).count("content_block_start") == 2
    deltas = [e for e in events if e["type"] == "content_block_delta"]
    pieces = [(e["index"], e["delta"]["partial_json"]) for e in deltas]
    assert pieces == [(0, '{"x"'), (1, "{}"), (0, ": 1}")]


def test_a_call_without_an_id_gets_one() -> None:
    events = written(Delta(tool_calls=[ToolCall(0, None, "f", "{}")]))
    body = whole(Answer(tool_calls=[ToolCall(0, None, "f", "{}")]))

    assert events[1]["content_block"]["id"] == body["content"][0]["id"] == "toolu_1_0"


def test_a_whole_message_has_the_same_blocks() -> None:
    answer = Answer(
        text="So.", reasoning="Hm.", tool_calls=[ToolCall(0, "a", "f", '{"x": 1}')],
        finish_reason="stop",
    )  # fmt: skip

    body = whole(answer)

    assert body["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "So."},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
    ]
    assert (body["id"], body["role"], body["stop_reason"]) == ("msg_1", "assistant", "tool_use")
    assert body["usage"]["input_tokens"] + body["usage"]["cache_read_input_tokens"] == 9


@pytest.mark.parametrize("arguments", ["", '{"x": ', "[1]"])
def test_arguments_that_are_no_object_are_an_empty_input(arguments: str) -> None:
    body = whole(Answer(tool_calls=[ToolCall(0, "a", "f", arguments)], finish_reason="length"))

    assert body["content"][0]["input"] == {}
    assert body["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("told", "reason", "sequence"),
    [("END", "stop_sequence", "END"), ("</s>", "end_turn", None), (None, "end_turn", None)],
)
def test_the_stop_sequence_is_named_where_it_was_one_of_the_callers(
    told: str | None, reason: str, sequence: str | None
) -> None:
    ended = written(Delta(finish_reason="stop", stop_sequence=told), stops=("END",))[-2]["delta"]
    body = whole(Answer(stop_sequence=told), "END")

    assert (ended["stop_reason"], ended["stop_sequence"]) == (reason, sequence)
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, sequence)


def test_an_answer_that_a_filter_ended_is_a_refusal() -> None:
    assert whole(Answer(finish_reason="content_filter"))["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequestError("no", code="c"), "invalid_request_error"),
        (ConflictError("no", code="c"), "invalid_request_error"),
        (RequestTooLargeError("no", code="c"), "request_too_large"),
        (OverloadedError("no", code="c"), "overloaded_error"),
        (EngineTimeoutError("no", code="c"), "timeout_error"),
        (EngineError("no", code="c"), "api_error"),
    ],
)
def test_an_error_has_anthropics_type_and_our_code(error: GalleyError, kind: str) -> None:
    body = error_body(error, "42")

    assert body == {
        "type": "error",
        "error": {"type": kind, "message": "no", "details": {"error_code": "c"}},
        "request_id": "42",
    }
    assert error_event(error, "42") == b"event: error\ndata: " + orjson.dumps(body) + b"\n\n"


def test_limits_are_told_in_anthropics_words_as_well() -> None:
    ours = [
        (b"x-ratelimit-limit-tokens", b"200"),
        (b"x-ratelimit-remaining-tokens", b"10"),
        (b"x-ratelimit-reset-tokens", b"90s"),
    ]

    told = limit_headers(ours, datetime(2026, 1, 2, 23, 59, tzinfo=UTC))

    assert told == [
        *ours,
        (b"anthropic-ratelimit-tokens-limit", b"200"),
        (b"anthropic-ratelimit-tokens-remaining", b"10"),
        (b"anthropic-ratelimit-tokens-reset", b"2026-01-03T00:00:30Z"),
    ]


@pytest.mark.parametrize(
    ("cursor", "names", "more"),
    [
        ({}, "ab", True),
        ({"after_id": "a"}, "bc", True),
        ({"after_id": "b"}, "cd", False),
        ({"after_id": "d"}, "", False),
        ({"before_id": "d"}, "bc", True),
        ({"before_id": "b"}, "a", False),
    ],
)
def test_a_page_of_models_begins_and_ends_where_it_was_asked_to(
    cursor: dict[str, str], names: str, more: bool
) -> None:
    models = [AnthropicModel(id=name, display_name=name) for name in "abcd"]
    asked: dict[str, Any] = {"after_id": None, "before_id": None} | cursor

    page = model_page(models, limit=2, **asked)

    assert "".join(model.id for model in page.data) == names
    assert (page.first_id or "", page.last_id or "") == (names[:1], names[-1:])
    assert page.has_more is more


def test_a_page_after_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadRequestError, match="after_id"):
        model_page([], after_id="x", before_id=None, limit=1)
