"""The official OpenAI SDK against a live server."""

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from pydantic import BaseModel

from tests.serving import LiveServer

QUESTION: ChatCompletionUserMessageParam = {
    "role": "user",
    "content": "What is FastAPI?",
}


@pytest.fixture
def sdk(live_server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{live_server.url}/v1", api_key=live_server.key, max_retries=0
    ) as client:
        yield client


def test_chat_completion_answers_with_usage(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="galley/chat", messages=[QUESTION], max_tokens=40, temperature=0
    )

    assert "FastAPI" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert 0 < answer.usage.completion_tokens <= 40


def test_streamed_pieces_join_to_the_whole_answer(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(
        model="galley/chat", messages=[QUESTION], max_tokens=24, temperature=0
    )

    chunks = list(
        sdk.chat.completions.create(
            model="galley/chat",
            messages=[QUESTION],
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 10
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_forced_tool_call_names_the_tool_and_its_arguments(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="galley/chat",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "The weather of a city",
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}},
                        "required": ["city"],
                    },
                },
            }
        ],
        tool_choice="required",
        temperature=0,
        max_tokens=100,
    )

    calls = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert "Paris" in calls[0].function.arguments


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Oslo"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_parsed_call_and_its_result_go_back_as_they_are(sdk: openai.OpenAI, stream: bool) -> None:
    messages: list[Any] = [QUESTION]
    asked: dict[str, Any] = {
        "model": "galley/chat",
        "messages": messages,
        "tools": [openai.pydantic_function_tool(Weather)],
        "temperature": 0,
        "max_tokens": 60,
    }
    if stream:
        with sdk.chat.completions.stream(**asked, tool_choice="required") as events:
            said = events.get_final_completion().choices[0].message
    else:
        said = sdk.chat.completions.parse(**asked, tool_choice="required").choices[0].message
    assert said.tool_calls is not None
    (call,) = said.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    messages += [said, {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"}]

    answer = sdk.chat.completions.parse(**asked)

    assert answer.choices[0].finish_reason in {"stop", "length", "tool_calls"}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the SDK's own
def test_a_parsed_answer_goes_back_as_it_is(sdk: openai.OpenAI) -> None:
    messages: list[Any] = [QUESTION]
    asked: dict[str, Any] = {
        "model": "galley/chat", "messages": messages, "temperature": 0, "max_tokens": 60
    }  # fmt: skip
    said = sdk.chat.completions.parse(**asked, response_format=Weather).choices[0].message
    assert isinstance(said.parsed, Weather)
    messages += [said, QUESTION]

    answer = sdk.chat.completions.parse(**asked)

    assert answer.choices[0].message.content


def test_text_completion_continues_the_prompt(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model="galley/chat", prompt="The capital of France is", max_tokens=8, temperature=0
    )

    assert "Paris" in answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8


def test_embeddings_come_as_unit_vectors(sdk: openai.OpenAI) -> None:
    texts = ["a cat sits on the mat", "a kitten is on a rug", "stock markets fell"]

    answer = sdk.embeddings.create(model="galley/embeddings", input=texts)

    first, second, other = (item.embedding for item in answer.data)
    assert len(first) == 384
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-4)
    near = sum(a * b for a, b in zip(first, second, strict=True))
    far = sum(a * b for a, b in zip(first, other, strict=True))
    assert near > far + 0.3


def test_moderation_says_what_a_text_is_about(sdk: openai.OpenAI) -> None:
    answer = sdk.moderations.create(input=["Have a nice day.", "I'm going to kill you"])

    fine, threat = answer.results
    assert (fine.flagged, threat.flagged) == (False, True)
    assert threat.categories.harassment_threatening
    assert threat.category_scores.violence > 0.5
    assert threat.category_applied_input_types.hate == ["text"]


def test_models_are_listed_and_found_by_name(sdk: openai.OpenAI) -> None:
    listed = [model.id for model in sdk.models.list()]

    assert listed == ["smollm2-135m-instruct", "all-minilm-l6-v2", "efficientnet-lite0"]
    assert sdk.models.retrieve("galley/embeddings").id == "all-minilm-l6-v2"


def test_errors_are_the_sdks_own_classes(live_server: LiveServer, sdk: openai.OpenAI) -> None:
    stranger = sdk.with_options(api_key="gk_nonsense")

    with pytest.raises(openai.AuthenticationError, match="Invalid API key"):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        sdk.chat.completions.create(model="no-such-model", messages=[QUESTION])
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(model="galley/chat", messages=[])
    assert refused.value.param == "messages"
