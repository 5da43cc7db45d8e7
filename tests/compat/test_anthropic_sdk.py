"""The official Anthropic SDK against a live server."""

from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pytest
from anthropic.types import Message, MessageParam, ToolParam
from pydantic import BaseModel

from tests.serving import LiveServer

QUESTION: MessageParam = {"role": "user", "content": "What is FastAPI?"}
GREEDY: dict[str, Any] = {"temperature": 0}  # the SDK has no words for it any more
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    },
}


@pytest.fixture
def sdk(live_server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=live_server.url, api_key=live_server.key, max_retries=0
    ) as client:
        yield client


def ask(sdk: anthropic.Anthropic, tokens: int = 24) -> Message:
    return sdk.messages.create(
        model="galley/chat", messages=[QUESTION], max_tokens=tokens, extra_body=GREEDY
    )


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def names_of(model: BaseModel) -> set[str]:
    """Every field that the answer had, those included that the SDK does not know."""
    return set(model.model_dump(exclude_unset=True))


def test_a_message_answers_with_usage(sdk: anthropic.Anthropic) -> None:
    message = ask(sdk)

    assert "FastAPI" in text_of(message)
    assert message.stop_reason in {"end_turn", "max_tokens"}
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 10
    assert 0 < message.usage.output_tokens <= 24
    assert message._request_id is not None
    assert message.id == f"msg_{message._request_id}"


def test_every_field_is_one_of_the_sdks_and_none_that_it_needs_is_missing(
    sdk: anthropic.Anthropic,
) -> None:
    message = ask(sdk)

    for part in (message, message.usage, *message.content):
        fields = type(part).model_fields
        assert names_of(part) <= fields.keys()
        assert names_of(part) >= {name for name, field in fields.items() if field.is_required()}
    Message.model_validate(message.model_dump(mode="json"), strict=True)


def test_streamed_text_joins_to_the_whole_message(sdk: anthropic.Anthropic) -> None:
    whole = ask(sdk)

    with sdk.messages.stream(
        model="galley/chat", messages=[QUESTION], max_tokens=24, extra_body=GREEDY
    ) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()

    assert len(pieces) > 10
    assert "".join(pieces) == text_of(final) == text_of(whole)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_raw_events_come_in_their_order(sdk: anthropic.Anthropic) -> None:
    events = sdk.messages.create(
        model="galley/chat", messages=[QUESTION], max_tokens=4, stream=True, extra_body=GREEDY
    )

    assert [event.type for event in events] == [
        "message_start", "content_block_start", *["content_block_delta"] * 4,
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_and_its_result_go_back_as_they_are(
    sdk: anthropic.Anthropic, stream: bool
) -> None:
    messages: list[Any] = [{"role": "user", "content": "How warm is it in Paris?"}]
    asked: dict[str, Any] = {
        "model": "galley/chat", "tools": [WEATHER], "max_tokens": 60, "extra_body": GREEDY,
    }  # fmt: skip
    forced: Any = {"type": "tool", "name": "get_weather"}
    if stream:
        with sdk.messages.stream(**asked, messages=messages, tool_choice=forced) as events:
            said: Message = events.get_final_message()
    else:
        said = sdk.messages.create(**asked, messages=messages, tool_choice=forced)
    assert said.stop_reason == "tool_use"
    (call,) = said.content
    assert call.type == "tool_use"
    assert (call.name, set(call.input)) == ("get_weather", {"city"})
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"}
    messages += [said.to_param(), {"role": "user", "content": [result]}]

    answer = sdk.messages.create(**asked, messages=messages)

    assert answer.stop_reason in {"end_turn", "max_tokens", "tool_use"}


def test_the_tool_runner_calls_the_tool_and_tells_what_it_returned(
    sdk: anthropic.Anthropic,
) -> None:
    asked_of: list[str] = []

    @anthropic.beta_tool
    def get_weather(city: Literal["Paris", "Oslo"]) -> str:
        """The weather of a city."""
        asked_of.append(city)
        return "17 degrees"

    runner = sdk.beta.messages.tool_runner(
        model="galley/chat",
        messages=[{"role": "user", "content": "How warm is it in Paris?"}],
        tools=[get_weather],
        tool_choice={"type": "any"},
        max_tokens=60,
        max_iterations=2,
        extra_body=GREEDY,
    )
    said = list(runner)

    assert [message.content[0].type for message in said] == ["tool_use", "tool_use"]
    assert asked_of
    assert set(asked_of) <= {"Paris", "Oslo"}


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Oslo"]


def test_an_answer_is_parsed_as_the_type_that_was_asked_for(sdk: anthropic.Anthropic) -> None:
    answer = sdk.messages.parse(
        model="galley/chat",
        messages=[QUESTION],
        max_tokens=60,
        output_format=Weather,
        extra_body=GREEDY,
    )

    assert isinstance(answer.parsed_output, Weather)


def test_tokens_are_counted_as_the_answer_counts_them(sdk: anthropic.Anthropic) -> None:
    counted = sdk.messages.count_tokens(model="galley/chat", messages=[QUESTION])

    usage = ask(sdk, tokens=1).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_models_are_listed_in_pages_and_found_by_name(sdk: anthropic.Anthropic) -> None:
    listed = [model.id for model in sdk.models.list(limit=1)]

    assert listed == ["smollm2-135m-instruct", "all-minilm-l6-v2", "efficientnet-lite0"]
    found = sdk.models.retrieve("galley/chat")
    assert (found.id, found.type, found.created_at.year) == (listed[0], "model", 1970)


@pytest.mark.anyio
async def test_the_async_client_does_the_same(live_server: LiveServer) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=live_server.url, auth_token=live_server.key, max_retries=0
    ) as sdk:
        asked: dict[str, Any] = {
            "model": "galley/chat", "messages": [QUESTION], "max_tokens": 12, "extra_body": GREEDY,
        }  # fmt: skip
        whole = await sdk.messages.create(**asked)
        async with sdk.messages.stream(**asked) as stream:
            pieces = [piece async for piece in stream.text_stream]
        listed = [model.id async for model in sdk.models.list()]

    assert "".join(pieces) == text_of(whole)
    assert len(listed) == 3
