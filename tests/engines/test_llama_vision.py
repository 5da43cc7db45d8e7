"""llama.cpp with eyes. They are made up, so what it says of a picture means nothing."""

import asyncio
import base64
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.errors import BadRequestError
from galley.engines.llama import LlamaEngine
from galley.engines.llama_child import EngineStartError
from galley.schemas.chat import ChatRequest, Message
from galley.schemas.delta import Delta
from galley.services.sources import fetch
from tests.engines.projectors import TOKENS, write_projector

pytestmark = pytest.mark.anyio

Ask = Callable[[LlamaEngine, ChatRequest], Awaitable[int]]
NAME = "smollm2-135m-instruct"
MODEL = EMBEDDED_MODELS[NAME].model_copy(update={"slots": 1})
PHOTOS = Path(__file__).parent.parent / "data" / "photos"
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="session")
def weights(models_dir: Path) -> Path:
    return fetch(NAME, EMBEDDED_MODELS[NAME], models_dir)


@pytest.fixture
async def engine(weights: Path, tmp_path: Path) -> AsyncGenerator[LlamaEngine]:
    projector = write_projector(tmp_path / "mmproj.gguf", embedding=576)
    engine = LlamaEngine("smollm2", weights, MODEL, projector=projector)
    await engine.start()
    yield engine
    await engine.aclose()


def asking(*photos: str, **changes: Any) -> ChatRequest:
    urls = [
        f"data:image/jpeg;base64,{base64.b64encode((PHOTOS / photo).read_bytes()).decode()}"
        for photo in photos
    ]
    parts: list[Any] = [{"type": "text", "text": "What animal is in this picture?"}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": parts}]
    given: dict[str, Any] = {"model": "m", "messages": messages, "max_tokens": 8}
    return ChatRequest.model_validate(given | {"temperature": 0} | changes)


async def answer(engine: LlamaEngine, request: ChatRequest) -> list[Delta]:
    return [delta async for pieces in engine.stream(request) for delta in pieces]


async def test_a_picture_is_read_and_takes_its_tokens_of_the_prompt(engine: LlamaEngine) -> None:
    blind, seeing = await answer(engine, asking()), await answer(engine, asking("cat.jpg"))

    text = "".join(delta.text for delta in seeing)
    first, second = blind[-1].usage, seeing[-1].usage
    assert text
    assert first is not None
    assert second is not None
    assert second.prompt_tokens == first.prompt_tokens + TOKENS
    assert second.completion_tokens == 8


async def test_pictures_are_counted_as_its_answer_counts_them(engine: LlamaEngine) -> None:
    request = asking("cat.jpg", "rocket.jpg")

    counted = await engine.count(request)

    usage = (await answer(engine, request))[-1].usage
    assert usage is not None
    assert counted == usage.prompt_tokens


async def test_what_pictures_take_is_bounded_without_a_look_at_them(engine: LlamaEngine) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}
    request = asking().model_copy(
        update={"messages": [Message.model_validate({"role": "user", "content": [part]})]}
    )

    assert await engine.check(request) == engine.context


async def test_pictures_go_with_tools_that_the_template_does_not_know(engine: LlamaEngine) -> None:
    request = asking("cat.jpg", tools=[WEATHER], tool_choice="required", max_tokens=40)

    deltas = await answer(engine, request)

    calls = [call for delta in deltas for call in delta.tool_calls]
    assert [call.name for call in calls] == ["get_weather"]


async def test_a_prompt_that_a_picture_makes_too_long_is_refused(engine: LlamaEngine) -> None:
    words = Message(role="user", content="hello " * 2020)
    request = asking("cat.jpg")
    request = request.model_copy(update={"messages": [words, *request.messages]})

    with pytest.raises(BadRequestError, match=r"context size \(2048 tokens") as refused:
        await answer(engine, request)

    assert refused.value.code == "context_length_exceeded"


async def test_pictures_come_back_after_the_child_was_killed(engine: LlamaEngine) -> None:
    before = await engine.count(asking("cat.jpg"))
    lost_pid = engine.pid
    assert lost_pid is not None

    os.kill(lost_pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while engine.pid in (lost_pid, None):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)

    assert await engine.count(asking("cat.jpg")) == before


@pytest.mark.parametrize("ask", [LlamaEngine.check, LlamaEngine.count])
async def test_without_a_projector_pictures_are_refused(weights: Path, ask: Ask) -> None:
    engine = LlamaEngine("smollm2", weights, MODEL)

    with pytest.raises(BadRequestError, match="cannot see images") as refused:
        await ask(engine, asking("cat.jpg"))

    assert refused.value.code == "unsupported_content"
    assert refused.value.param == "messages[0].content"


async def test_a_projector_for_another_model_is_refused_at_the_start(
    weights: Path, tmp_path: Path
) -> None:
    projector = write_projector(tmp_path / "mmproj.gguf", embedding=512)
    engine = LlamaEngine("smollm2", weights, MODEL, projector=projector)

    with pytest.raises(EngineStartError):
        await engine.start()
