"""llama.cpp in its child process, for real."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
import pytest

from galley.core.catalogue import EMBEDDED_MODELS, ModelSettings
from galley.core.errors import BadRequestError, OverloadedError
from galley.engines.llama import LlamaEngine
from galley.engines.llama_child import EngineStartError
from galley.engines.openai_http import OpenAIHttpEngine
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta
from galley.services.sources import fetch

pytestmark = pytest.mark.anyio

MODEL = EMBEDDED_MODELS["smollm2-135m-instruct"].model_copy(update={"slots": 2})


@pytest.fixture(scope="session")
def weights(models_dir: Path) -> Path:
    return fetch("smollm2-135m-instruct", EMBEDDED_MODELS["smollm2-135m-instruct"], models_dir)


@pytest.fixture
async def engine(weights: Path) -> AsyncGenerator[LlamaEngine]:
    engine = LlamaEngine("smollm2", weights, MODEL)
    await engine.start()
    yield engine
    await engine.aclose()


def asking(text: str = "What is FastAPI?", **changes: Any) -> ChatRequest:
    messages = [{"role": "user", "content": text}]
    given: dict[str, Any] = {"model": "m", "messages": messages, "max_tokens": 8}
    return ChatRequest.model_validate(given | {"temperature": 0} | changes)


async def answer(engine: LlamaEngine, request: ChatRequest | CompletionRequest) -> list[Delta]:
    return [delta async for pieces in engine.stream(request) for delta in pieces]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def until_it_answers(engine: LlamaEngine, seconds: float) -> str:
    end = time.monotonic() + seconds
    while True:
        try:
            return text_of(await answer(engine, asking()))
        except OverloadedError:
            assert time.monotonic() < end, engine.problem
            await asyncio.sleep(0.05)


async def test_an_answer_ends_with_its_reason_and_its_exact_usage(engine: LlamaEngine) -> None:
    deltas = await answer(engine, asking())

    assert "FastAPI" in text_of(deltas)
    reasons = [delta.finish_reason for delta in deltas if delta.finish_reason]
    assert reasons == ["length"]
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 8
    assert deltas[-1].usage.prompt_tokens == 35


async def test_the_stop_sequence_that_ended_an_answer_is_told(engine: LlamaEngine) -> None:
    deltas = await answer(engine, asking(stop=["nothing like it", "API"]))

    assert text_of(deltas) == "Fast"
    assert [delta.stop_sequence for delta in deltas if delta.finish_reason] == ["API"]


async def test_a_prompt_is_counted_as_its_answer_counts_it_and_as_others_are_told(
    engine: LlamaEngine,
) -> None:
    assert engine.address is not None
    socket, secret = engine.address
    raw = OpenAIHttpEngine("http://child/v1", "m", api_key=secret, slots=1, socket=socket)
    usage = (await answer(engine, asking()))[-1].usage
    assert usage is not None

    counted = await engine.count(asking()), await raw.count(asking())
    await raw.aclose()

    assert counted == (usage.prompt_tokens, usage.prompt_tokens)


async def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(
    engine: LlamaEngine,
) -> None:
    too_long, far_too_long = asking("hello there " * 1100), asking("hello there " * 100_000)

    with pytest.raises(BadRequestError, match=r"context is 2048 tokens.* has 22\d\d\b"):
        await engine.check(too_long)
    with pytest.raises(BadRequestError, match=r"context is 2048 tokens.* has at least \d{4}"):
        await engine.check(far_too_long)

    await engine.check(asking("hello there " * 900))
    tokens = CompletionRequest(model="m", prompt=[1] * 2048)
    with pytest.raises(BadRequestError, match="2048"):
        await engine.check(tokens)


async def test_no_context_is_promised_that_the_model_was_not_made_for(weights: Path) -> None:
    settings = MODEL.model_copy(update={"context": 32_768, "slots": 1})
    engine = LlamaEngine("smollm2", weights, settings)
    await engine.start()
    try:
        with pytest.raises(BadRequestError, match=r"context is 8192 tokens.* has 9\d{3}\b"):
            await engine.check(asking("hello there " * 4500))
    finally:
        await engine.aclose()


async def test_calls_in_the_history_count_with_their_names_and_all_around_them(
    engine: LlamaEngine,
) -> None:
    function = {"name": "get_the_weather_of_a_place_at_some_time_of_the_year", "arguments": "{}"}
    calls = [{"id": f"call_{i:032}", "function": function} for i in range(128)]
    turn = {"role": "assistant", "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": ""} for call in calls]
    request = asking(messages=[{"role": "user", "content": "Rain?"}, turn, *results[:1]])

    with pytest.raises(BadRequestError, match=r"context is 2048 tokens.* has \d{4}") as failure:
        await engine.check(request)

    assert failure.value.code == "context_length_exceeded"


async def test_a_turn_of_the_assistant_at_the_end_is_not_written_on(engine: LlamaEngine) -> None:
    asked = {"role": "user", "content": "What is FastAPI?"}
    said = {"role": "assistant", "content": "A web"}

    alone = await answer(engine, asking())
    after = await answer(engine, asking(messages=[asked, said]))

    assert alone[-1].usage is not None
    assert after[-1].usage is not None
    words, end_and_beginning = 2, 6
    added = after[-1].usage.prompt_tokens - alone[-1].usage.prompt_tokens
    assert added == words + end_and_beginning


async def test_many_long_prompts_are_counted_at_the_same_time(engine: LlamaEngine) -> None:
    began = time.monotonic()

    counts = (engine.check(asking("hello there " * (1100 + i))) for i in range(32))
    refused = await asyncio.gather(*counts, return_exceptions=True)

    assert [type(error) for error in refused] == [BadRequestError] * 32
    assert time.monotonic() - began < 4  # a connection that idles keeps others waiting for 5


async def test_what_was_read_for_one_user_helps_only_that_user(engine: LlamaEngine) -> None:
    prompt = asking("Our secret plan: " + "sell the boats, buy the harbour. " * 20)

    async def remembered(salt: str) -> int:
        stream = engine.stream(prompt, cache_salt=salt)
        usages = [delta.usage async for pieces in stream for delta in pieces if delta.usage]
        return usages[-1].cached_tokens

    asked = {"ada": await remembered("ada"), "bob": await remembered("bob")}
    again = {"ada": await remembered("ada"), "bob": await remembered("bob")}
    both_slots_are_taken = await remembered("eve")

    assert asked == {"ada": 0, "bob": 0}
    assert min(again.values()) > 100
    assert both_slots_are_taken == 0


async def test_what_llama_cpp_refuses_is_the_callers_error(engine: LlamaEngine) -> None:
    with pytest.raises(BadRequestError, match="invalid tokens"):
        await answer(engine, CompletionRequest(model="m", prompt=[1, 99_999_999]))


async def test_a_killed_child_costs_its_own_requests_and_comes_back(engine: LlamaEngine) -> None:
    async def story() -> list[Delta]:
        return await answer(engine, asking("Tell a long story.", max_tokens=1000))

    running = asyncio.create_task(story())
    await asyncio.sleep(0.5)
    assert engine.pid is not None
    assert engine.address is not None
    folder = engine.address[0].parent

    os.kill(engine.pid, signal.SIGKILL)

    with pytest.raises(OverloadedError) as failure:
        await running
    assert failure.value.retry_after is not None
    assert "FastAPI" in await until_it_answers(engine, seconds=30)
    assert engine.problem is None
    assert not folder.exists()


async def test_a_child_whose_socket_is_gone_is_started_again(engine: LlamaEngine) -> None:
    lost_pid = engine.pid
    assert engine.address is not None

    shutil.rmtree(engine.address[0].parent)  # as whatever cleans up /tmp does

    for _ in range(600):
        if engine.pid not in (lost_pid, None):
            break
        await asyncio.sleep(0.05)
    assert "FastAPI" in text_of(await answer(engine, asking()))
    assert engine.pid != lost_pid


async def test_a_child_that_is_stuck_is_started_again(weights: Path) -> None:
    engine = LlamaEngine("smollm2", weights, MODEL, silence=2.0)
    await engine.start()
    stuck_pid = engine.pid
    named = {"name": "tree", "schema": {"$defs": _shared(24), "$ref": "#/$defs/d0"}}
    # 2^24 ways to read the same text: llama.cpp follows them all.
    stuck = asking(max_tokens=200, response_format={"type": "json_schema", "json_schema": named})
    try:
        with pytest.raises(OverloadedError):
            await answer(engine, stuck)

        assert "FastAPI" in await until_it_answers(engine, seconds=30)
        assert engine.pid != stuck_pid
    finally:
        await engine.aclose()


async def test_a_caller_who_stops_reading_is_not_the_childs_silence(weights: Path) -> None:
    engine = LlamaEngine("smollm2", weights, MODEL, silence=2.0)
    await engine.start()
    pid = engine.pid
    stream = engine.stream(asking(max_tokens=8))
    try:
        first = await anext(stream)
        await asyncio.sleep(4)  # longer than the child may be silent

        rest = [delta async for pieces in stream for delta in pieces]

        assert text_of([*first, *rest])
        assert rest[-1].usage is not None
        assert engine.pid == pid
    finally:
        await engine.aclose()


def _shared(levels: int) -> dict[str, Any]:
    """Definitions each of which offers the next one twice."""
    found: dict[str, Any] = {f"d{levels}": {"type": "string"}}
    for n in range(levels):
        step = {
            "type": "object",
            "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}},
            "required": ["a"],
        }
        found[f"d{n}"] = {"anyOf": [step, step]}
    return found


async def test_closing_ends_the_child_and_leaves_nothing(weights: Path) -> None:
    engine = LlamaEngine("smollm2", weights, MODEL)
    await engine.start()
    child = psutil.Process(engine.pid)
    assert engine.address is not None
    folder = engine.address[0].parent
    assert folder.stat().st_mode & 0o077 == 0

    await engine.aclose()

    assert not child.is_running()
    assert not folder.exists()
    with pytest.raises(OverloadedError, match="stopped"):
        await answer(engine, asking())


async def test_a_file_that_is_no_model_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    settings = ModelSettings(kind="chat", source="path:bad.gguf")

    with pytest.raises(EngineStartError, match=r"llama\.cpp ended"):
        await LlamaEngine("bad", tmp_path / "bad.gguf", settings).start()


async def test_a_model_that_never_loads_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = tmp_path / "endless.gguf"
    os.mkfifo(endless)  # whoever reads it waits for ever
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = ModelSettings(kind="chat", source="path:endless.gguf")

    with pytest.raises(EngineStartError, match="took more than 1 seconds"):
        await LlamaEngine("endless", endless, settings, loading=1).start()

    assert os.listdir(tmp_path) == ["endless.gguf"]


async def test_a_child_that_cannot_be_started_leaves_no_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))

    with pytest.raises(FileNotFoundError):
        await LlamaEngine("smollm2", weights, MODEL).start()

    assert os.listdir(tmp_path) == []


PARENT = """
import asyncio, sys
from pathlib import Path
from galley.core.catalogue import EMBEDDED_MODELS
from galley.engines.llama import LlamaEngine

async def main():
    engine = LlamaEngine("m", Path(sys.argv[1]), EMBEDDED_MODELS["smollm2-135m-instruct"])
    await engine.start()
    print("child", engine.pid, engine.address[0], flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_child_does_not_outlive_a_killed_server_and_leaves_nothing(weights: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(weights)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        told = (line.split() for line in parent.stdout)
        pid, socket = next(words[1:] for words in told if words[0] == "child")
        assert Path(socket).exists()
        child = psutil.Process(int(pid))

        parent.kill()

    assert psutil.wait_procs([child], timeout=10)[1] == []
    assert not Path(socket).parent.exists()
