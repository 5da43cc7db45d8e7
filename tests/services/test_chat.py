"""Pieces of several answers, joined."""

from collections.abc import AsyncGenerator, Sequence

import pytest

from galley.schemas.delta import Delta, ToolCall
from galley.services.chat import gather

pytestmark = pytest.mark.anyio


async def stream(deltas: Sequence[Delta]) -> AsyncGenerator[list[Delta]]:
    for delta in deltas:
        yield [delta]


async def test_pieces_join_by_answer_in_their_order() -> None:
    deltas = [
        Delta(index=1, text="b"),
        Delta(index=0, text="a"),
        Delta(index=1, text="c", finish_reason="length"),
        Delta(index=0, finish_reason="stop"),
    ]

    first, second = await gather(stream(deltas), 2)

    assert (first.text, first.finish_reason) == ("a", "stop")
    assert (second.text, second.finish_reason) == ("bc", "length")


async def test_pieces_of_a_tool_call_join_by_its_index() -> None:
    deltas = [
        Delta(tool_calls=[ToolCall(0, "c1", "one", '{"a"')]),
        Delta(tool_calls=[ToolCall(1, "c2", "two", "{}")]),
        Delta(tool_calls=[ToolCall(0, arguments=": 1}")]),
        Delta(finish_reason="tool_calls"),
    ]

    (answer,) = await gather(stream(deltas), 1)

    assert [(c.id, c.name, c.arguments) for c in answer.tool_calls] == [
        ("c1", "one", '{"a": 1}'),
        ("c2", "two", "{}"),
    ]


async def test_calls_that_a_server_numbers_alike_are_told_apart_by_their_ids() -> None:
    deltas = [
        Delta(tool_calls=[ToolCall(0, "c1", "one", "{")]),
        Delta(tool_calls=[ToolCall(0, "c1", None, "}")]),
        Delta(tool_calls=[ToolCall(0, "c2", "two", "{")]),
        Delta(tool_calls=[ToolCall(0, None, None, "}")]),
    ]

    (answer,) = await gather(stream(deltas), 1)

    assert [(c.id, c.arguments) for c in answer.tool_calls] == [("c1", "{}"), ("c2", "{}")]


async def test_logprobs_join_in_order() -> None:
    deltas = [
        Delta(text="a", logprobs=[{"token": "a"}]),
        Delta(text="b", logprobs=[{"token": "b"}]),
    ]

    (answer,) = await gather(stream(deltas), 1)

    assert answer.logprobs == [{"token": "a"}, {"token": "b"}]
