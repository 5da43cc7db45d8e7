"""Tools for a raw llama-server, whose model's template has none."""

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from galley.engines.http_patience import Patience
from galley.engines.openai_http import OpenAIHttpEngine
from galley.engines.prompted_tools import PromptedTools
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta
from tests.llama import SECRET, raw_llama_server

pytestmark = pytest.mark.anyio

CITY = {"type": "string", "enum": ["Paris", "Oslo"]}
PARAMETERS = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": PARAMETERS}}
NAMED = {"type": "function", "function": {"name": "get_time"}}


@pytest.fixture(scope="module")
def raw_server(models_dir: Path) -> Generator[str]:
    with raw_llama_server(models_dir) as url:
        yield url


@pytest.fixture
async def engine(raw_server: str) -> AsyncGenerator[PromptedTools]:
    far = OpenAIHttpEngine(
        raw_server, "smollm2", api_key=SECRET, slots=2, patience=Patience(5, 60, 30)
    )
    async with aclosing(PromptedTools(far)) as engine:
        yield engine


def asking(**changes: Any) -> ChatRequest:
    given: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [WEATHER, CLOCK],
        "max_tokens": 60,
        "temperature": 0,
    }
    return ChatRequest.model_validate(given | changes)


async def answer(engine: PromptedTools, request: Any) -> list[Delta]:
    return [delta async for pieces in engine.stream(request) for delta in pieces]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"), [("required", {"get_weather", "get_time"}), (NAMED, {"get_time"})]
)
async def test_a_forced_call_is_a_valid_call(
    engine: PromptedTools, choice: Any, names: set[str], stream: bool
) -> None:
    deltas = await answer(engine, asking(tool_choice=choice, stream=stream))

    (call,) = [call for delta in deltas for call in delta.tool_calls]
    assert call.name in names
    assert json.loads(call.arguments)["city"] in {"Paris", "Oslo"}
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["tool_calls"]
    assert "".join(delta.text for delta in deltas) == ""


async def test_tools_that_may_not_be_called_are_not_in_the_prompt(engine: PromptedTools) -> None:
    forbidden = await engine.count(asking(tool_choice="none"))
    without = await engine.count(asking(tools=None))
    offered = await engine.count(asking())

    assert forbidden == without < offered - 50


async def test_a_call_and_its_result_are_read_by_the_model(engine: PromptedTools) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    turns = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "tool_calls": [{"id": "call_1", "function": function}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It snows in Paris."},
    ]

    deltas = await answer(engine, asking(messages=turns, tool_choice="none"))

    assert "Paris" in "".join(delta.text for delta in deltas)


async def test_what_has_no_tools_is_answered_as_ever(engine: PromptedTools) -> None:
    chat = await answer(engine, asking(tools=None, max_tokens=4, stream=True))
    prompt = {"model": "m", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    text = await answer(engine, CompletionRequest.model_validate(prompt))

    assert "".join(delta.text for delta in chat)
    assert "Paris" in "".join(delta.text for delta in text)
