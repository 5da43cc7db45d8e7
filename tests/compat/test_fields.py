"""Every answer and every piece of one has the fields of the SDKs' own types, and no others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseErrorEvent, ResponseFailedEvent

from tests.compat.fields import complaints, given_names
from tests.loopback import events, scripted_server
from tests.routers.test_far_models import far
from tests.serving import LiveServer, serving

QUESTION: Any = [{"role": "user", "content": "What is FastAPI?"}]
CITY = {"type": "string", "enum": ["Paris", "Oslo"]}
PARAMETERS = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
WEATHER = {"name": "get_weather", "parameters": PARAMETERS}
CHAT: list[dict[str, Any]] = [
    {"max_tokens": 5},
    {"max_tokens": 5, "n": 2},
    {"max_tokens": 5, "logprobs": True, "top_logprobs": 2},
    {"max_tokens": 20, "response_format": {"type": "json_object"}},
    {
        "max_tokens": 60,
        "tools": [{"type": "function", "function": WEATHER}],
        "tool_choice": "required",
    },
]
RESPONSES: list[dict[str, Any]] = [
    {"max_output_tokens": 5},
    {
        "max_output_tokens": 60,
        "tools": [{"type": "function", **WEATHER}],
        "tool_choice": "required",
    },
]
MESSAGES: list[dict[str, Any]] = [
    {"max_tokens": 5},
    {
        "max_tokens": 60,
        "tools": [{"name": "get_weather", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "any"},
    },
]


ONE_WORKER = pytest.mark.xdist_group("gateway")  # it is two servers more


@pytest.fixture(
    params=["live_server", pytest.param("gateway", marks=ONE_WORKER)], ids=["embedded", "gateway"]
)
def server(request: pytest.FixtureRequest) -> LiveServer:
    return request.getfixturevalue(request.param)


@pytest.fixture
def gpt(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("asked", CHAT, ids=lambda asked: "-".join(asked))
def test_chat_completions(gpt: openai.OpenAI, asked: dict[str, Any]) -> None:
    whole = gpt.chat.completions.create(model="galley/chat", messages=QUESTION, **asked)

    assert list(complaints(whole)) == []
    for choice in whole.choices:
        assert {"logprobs", "finish_reason"} <= given_names(choice)
        assert {"content", "refusal"} <= given_names(choice.message)
    ChatCompletion.model_validate(whole.model_dump(mode="json"), strict=True)


@pytest.mark.parametrize("asked", CHAT, ids=lambda asked: "-".join(asked))
def test_chat_completion_chunks(gpt: openai.OpenAI, asked: dict[str, Any]) -> None:
    options: Any = {"include_usage": True}
    chunks = list(
        gpt.chat.completions.create(
            model="galley/chat", messages=QUESTION, stream=True, stream_options=options, **asked
        )
    )

    assert list(complaints(chunks)) == []
    assert all("usage" in given_names(chunk) for chunk in chunks)
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    assert all({"logprobs", "finish_reason"} <= given_names(choice) for choice in pieces)
    openings = [choice.delta for choice in pieces if choice.delta.role]
    assert len(openings) == asked.get("n", 1)
    assert all({"content", "refusal"} <= given_names(delta) for delta in openings)


@pytest.mark.parametrize("stream", [False, True])
def test_text_completions(gpt: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "galley/chat", "prompt": "Once", "max_tokens": 3, "stream": stream}

    found: Any = gpt.completions.create(**asked)

    answers = list(found) if stream else [found]
    assert list(complaints(answers)) == []
    assert all("logprobs" in given_names(choice) for a in answers for choice in a.choices)


def test_embeddings(gpt: openai.OpenAI) -> None:
    assert list(complaints(gpt.embeddings.create(model="galley/embeddings", input="a"))) == []


@pytest.mark.parametrize("asked", RESPONSES, ids=lambda asked: "-".join(asked))
def test_responses(gpt: openai.OpenAI, asked: dict[str, Any]) -> None:
    whole = gpt.responses.create(model="galley/chat", input="What is FastAPI?", **asked)
    events = list(
        gpt.responses.create(model="galley/chat", input="What is FastAPI?", stream=True, **asked)
    )

    # `store` is in OpenAI's specification, and in its answers, but not in the SDK's type.
    unknown = {said.removeprefix("answer") for said in complaints([whole, *events])}
    assert {said.rpartition("]")[2] for said in unknown} == {
        ".store is unknown", ".response.store is unknown",
    }  # fmt: skip


@pytest.mark.parametrize("asked", MESSAGES, ids=lambda asked: "-".join(asked))
def test_anthropics_messages(claude: anthropic.Anthropic, asked: dict[str, Any]) -> None:
    whole = claude.messages.create(model="galley/chat", messages=QUESTION, **asked)
    events = list(
        claude.messages.create(model="galley/chat", messages=QUESTION, stream=True, **asked)
    )

    assert list(complaints([whole, *events])) == []


def test_anthropics_counts_and_models(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="galley/chat", messages=QUESTION)
    listed = claude.models.list(limit=10)

    assert list(complaints([counted, *listed.data])) == []


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "responses"])
def test_openais_errors_have_every_field_null_ones_included(server: LiveServer, path: str) -> None:
    unknown = server.post(f"/v1/{path}", model="no-such-model", messages=QUESTION, prompt="a")
    stranger = server.client.post(
        f"/v1/{path}", headers={"authorization": "Bearer gk_nobody"}, json={}
    )

    for refused in (unknown, stranger):
        assert 400 <= refused.status_code < 500
        assert refused.json().keys() == {"error"}
        assert refused.json()["error"].keys() == {"message", "type", "param", "code"}
    assert stranger.json()["error"]["param"] is None


@pytest.fixture
def broken_off(tmp_path: Path) -> Iterator[LiveServer]:
    """A server whose model breaks off after a word."""
    begun = events('{"choices": [{"index": 0, "delta": {"content": "Hey"}}]}')
    with scripted_server(begun) as upstream, serving(far(upstream.base_url, tmp_path)) as server:
        server.until_ready()
        yield server


def last_events(server: LiveServer, path: str, **asked: Any) -> list[dict[str, Any]]:
    answer = server.post(path, model="far", stream=True, **asked)
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_an_error_in_a_stream_has_every_field_null_ones_included(broken_off: LiveServer) -> None:
    *_, last = last_events(broken_off, "/v1/chat/completions", messages=QUESTION)

    assert last.keys() == {"error"}
    assert last["error"].keys() == {"message", "type", "param", "code"}


def test_an_error_in_a_stream_of_events_is_one_of_the_sdks(broken_off: LiveServer) -> None:
    *_, error, failed = last_events(broken_off, "/v1/responses", input="Hi", store=False)

    assert list(complaints(ResponseErrorEvent.construct(**error))) == []
    assert error["param"] is None
    found = set(complaints(ResponseFailedEvent.construct(**failed)))
    assert found == {"answer.response.store is unknown"}


def test_openais_models_lack_no_field(gpt: openai.OpenAI) -> None:
    listed = gpt.models.list()

    # What else is known of a model is Galley's own: its kind, whether it is loaded, its license.
    assert [said for said in complaints(listed.data) if said.endswith("missing")] == []


def test_the_check_sees_what_is_unknown_and_what_is_missing() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "a", "mood": "fine"}}
    odd = ChatCompletion.construct(id="1", choices=[choice])

    said = set(complaints(odd))

    assert "answer.choices[0].message.mood is unknown" in said
    assert {"answer.model is missing", "answer.choices[0].finish_reason is missing"} <= said
