"""A raw llama-server on a port of its own, spoken to in both of its languages."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from galley.core.errors import BadRequestError, EngineError
from galley.engines.anthropic_http import AnthropicHttpEngine
from galley.engines.http_patience import Patience
from galley.engines.openai_http import OpenAIHttpEngine
from galley.schemas.chat import ChatRequest
from galley.schemas.delta import Delta
from tests.llama import SECRET, raw_llama_server

pytestmark = pytest.mark.anyio

Engine = OpenAIHttpEngine | AnthropicHttpEngine


@pytest.fixture(scope="module")
def raw_server(models_dir: Path) -> Generator[str]:
    """The base URL of the server's API."""
    with raw_llama_server(models_dir) as url:
        yield url


def make(kind: type[Engine], url: str, api_key: str = SECRET) -> Engine:
    return kind(url, "smollm2", api_key=api_key, slots=2, patience=Patience(5, 60, 30))


def asking(**changes: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "What is FastAPI?"}]
    given: dict[str, Any] = {"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0}
    return ChatRequest.model_validate(given | changes)


async def answer(engine: Engine, request: ChatRequest) -> list[Delta]:
    return [delta async for pieces in engine.stream(request) for delta in pieces]


@pytest.mark.parametrize("kind", [OpenAIHttpEngine, AnthropicHttpEngine])
async def test_both_languages_get_the_same_answer_and_the_same_count(
    raw_server: str, kind: type[Engine]
) -> None:
    engine = make(kind, raw_server)

    deltas = await answer(engine, asking())
    counted = await engine.count(asking())
    again = await answer(engine, asking())
    await engine.aclose()

    said = "".join(delta.text for delta in deltas)
    assert "FastAPI" in said
    assert "".join(delta.text for delta in again) == said
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]
    usage = [delta.usage for delta in deltas if delta.usage][-1]
    assert (usage.prompt_tokens, usage.completion_tokens) == (35, 8)
    assert counted == 35


@pytest.mark.parametrize("kind", [OpenAIHttpEngine, AnthropicHttpEngine])
async def test_a_key_that_is_wrong_and_a_prompt_that_is_too_long_are_told_apart(
    raw_server: str, kind: type[Engine]
) -> None:
    stranger, engine = make(kind, raw_server, api_key="not-the-secret"), make(kind, raw_server)
    long = [{"role": "user", "content": "hello there " * 1500}]

    with pytest.raises(EngineError) as refused:
        await answer(stranger, asking())
    with pytest.raises(BadRequestError) as too_long:
        await answer(engine, asking(messages=long))
    await stranger.aclose()
    await engine.aclose()

    assert refused.value.code == "upstream_auth"
    assert too_long.value.code == "context_length_exceeded"
