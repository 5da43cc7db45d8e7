"""OpenAI's Responses by the official SDK against a live server."""

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.serving import LiveServer

ASKED: dict[str, Any] = {"model": "galley/chat", "temperature": 0, "max_output_tokens": 24}
QUESTION = "What is FastAPI?"


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Oslo"]


@pytest.fixture
def sdk(live_server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{live_server.url}/v1", api_key=live_server.key, max_retries=0
    ) as client:
        yield client


def names_of(model: BaseModel) -> set[str]:
    """Every field that the answer had, those included that the SDK does not know."""
    return set(model.model_dump(exclude_unset=True))


def test_a_response_answers_with_usage(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(input=QUESTION, **ASKED)

    assert "FastAPI" in answer.output_text
    assert answer._request_id is not None
    assert answer.id == f"resp_{answer._request_id.replace('-', '')}"
    assert answer.usage is not None
    assert answer.usage.input_tokens > 10
    assert 0 < answer.usage.output_tokens <= 24


def test_every_field_is_one_of_the_sdks_and_none_that_it_needs_is_missing(
    sdk: openai.OpenAI,
) -> None:
    answer = sdk.responses.create(input=QUESTION, **ASKED)

    assert answer.usage is not None
    (item,) = answer.output
    assert item.type == "message"
    for part in (answer.usage, answer.usage.input_tokens_details, item, *item.content):
        fields = type(part).model_fields
        assert names_of(part) <= fields.keys()
        assert names_of(part) >= {name for name, field in fields.items() if field.is_required()}
    assert names_of(answer) - Response.model_fields.keys() == {"store"}
    Response.model_validate(answer.model_dump(mode="json"), strict=True)


def test_streamed_text_joins_to_the_whole_response(sdk: openai.OpenAI) -> None:
    whole = sdk.responses.create(input=QUESTION, **ASKED)

    with sdk.responses.stream(input=QUESTION, **ASKED) as stream:
        events = list(stream)

    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(pieces) > 10
    assert "".join(pieces) == whole.output_text
    last = events[-1]
    assert last.type in {"response.completed", "response.incomplete"}


def test_raw_events_come_in_their_order(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(input=QUESTION, stream=True, **ASKED))

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events][:4] == [
        "response.created", "response.in_progress",
        "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the SDK's own
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_parsed_as_the_type_that_was_asked_for_and_goes_back(
    sdk: openai.OpenAI, stream: bool
) -> None:
    asked: dict[str, Any] = ASKED | {"max_output_tokens": 60, "text_format": Weather}
    if stream:
        with sdk.responses.stream(input=QUESTION, **asked) as events:
            said = events.get_final_response()
    else:
        said = sdk.responses.parse(input=QUESTION, **asked)
    assert isinstance(said.output_parsed, Weather)
    spoken: Any = [{"role": "user", "content": QUESTION}, *said.output]

    answer = sdk.responses.create(
        input=[*spoken, {"role": "user", "content": "Go on."}], store=False, **ASKED
    )

    assert answer.output_text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_a_forced_call_and_its_output_make_a_round_trip(
    sdk: openai.OpenAI, stream: bool, stored: bool
) -> None:
    asked: dict[str, Any] = ASKED | {
        "tools": [openai.pydantic_function_tool(Weather)],
        "max_output_tokens": 60,
    }
    spoken: list[Any] = [{"role": "user", "content": "How warm is it in Paris?"}]
    forced: dict[str, Any] = {"tool_choice": "required", "input": spoken}
    if stream:
        with sdk.responses.stream(**asked, **forced) as events:
            said = events.get_final_response()
    else:
        said = sdk.responses.parse(**asked, **forced)
    (call,) = said.output
    assert call.type == "function_call"
    assert isinstance(call.parsed_arguments, Weather)
    told: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "17 degrees"}
    going_on: dict[str, Any] = (
        {"input": [told], "previous_response_id": said.id}
        if stored
        else {"input": [*spoken, call, told]}
    )

    answer = sdk.responses.parse(**asked, **going_on)

    assert {item.type for item in answer.output} <= {"message", "function_call"}
    assert answer.output


def test_a_response_is_retrieved_listed_and_deleted(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(input="My name is Ada.", **ASKED)
    second = sdk.responses.create(
        input="What is my name?", previous_response_id=first.id, instructions="Be brief.", **ASKED
    )

    found = sdk.responses.retrieve(second.id)
    items = list(sdk.responses.input_items.list(second.id, order="asc", limit=2))
    sdk.responses.delete(second.id)

    assert found.to_dict() == second.to_dict()
    assert [item.type for item in items] == ["message", "message", "message"]
    assert items[1].id == first.output[0].id
    with pytest.raises(openai.NotFoundError) as lost:
        sdk.responses.retrieve(second.id)
    assert lost.value.code == "response_not_found"


def test_a_response_that_cannot_be_gone_on_from_is_named(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.responses.create(input=QUESTION, previous_response_id="resp_123", **ASKED)

    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


@pytest.mark.anyio
async def test_the_async_client_does_the_same(live_server: LiveServer) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{live_server.url}/v1", api_key=live_server.key, max_retries=0
    ) as sdk:
        whole = await sdk.responses.create(input=QUESTION, **ASKED)
        async with sdk.responses.stream(input=QUESTION, **ASKED) as stream:
            events = [event async for event in stream]
        listed = [item.id async for item in await sdk.responses.input_items.list(whole.id)]

    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == whole.output_text
    assert len(listed) == 1
