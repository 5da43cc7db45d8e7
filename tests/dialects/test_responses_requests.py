"""OpenAI's Responses in the mother tongue, and as they are kept."""

from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from galley.core.errors import BadRequestError
from galley.dialects.responses_requests import chat_request, read_items, write_items
from galley.schemas.responses import ResponsesRequest

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
CALL = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "17"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": []}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "original"}
TOOL: dict[str, Any] = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
SDK_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)


def request_of(*items: dict[str, Any], **more: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "m", "input": list(items)} | more)


def said(*items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The messages that engines get."""
    request = request_of(*items, **more)
    told = chat_request(request, read_items(write(*items)))
    return [message.model_dump(exclude_none=True) for message in told.messages]


def asked(**more: Any) -> dict[str, Any]:
    """All that engines get, but for the messages."""
    request = request_of(QUESTION, **more)
    told = chat_request(request, read_items([QUESTION]))
    return told.model_dump(exclude={"messages"}, exclude_none=True, by_alias=True)


def write(*items: dict[str, Any]) -> list[dict[str, Any]]:
    """The items as they are kept."""
    return write_items(read_items(list(items)), "abc")


def message(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


def words(text: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": kind, "text": text}


def test_a_text_is_what_the_user_says() -> None:
    request = ResponsesRequest.model_validate({"model": "m", "input": "Hi"})

    (only,) = request.items

    assert only.model_dump(exclude_unset=True) == {"role": "user", "content": "Hi"}


def test_instructions_are_the_first_message() -> None:
    first, second = said(QUESTION, instructions="Be brief.")

    assert first == {"role": "system", "content": "Be brief."}
    assert second == QUESTION


@pytest.mark.parametrize("instructions", [None, ""])
def test_no_instructions_are_no_message(instructions: str | None) -> None:
    assert said(QUESTION, instructions=instructions) == [QUESTION]


def test_words_and_calls_that_follow_each_other_are_one_answer() -> None:
    words_first = message("assistant", words("Let me look.", "output_text"))
    again = CALL | {"call_id": "c2"}

    _, called, first, second, more = said(
        QUESTION, THOUGHT, words_first, CALL, again, RESULT, RESULT | {"call_id": "c2"}, QUESTION
    )

    function = {"name": "get_weather", "arguments": "{}"}
    assert called == {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": function},
            {"id": "c2", "type": "function", "function": function},
        ],
    }
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "17"}
    assert (second["tool_call_id"], more) == ("c2", QUESTION)


@pytest.mark.parametrize(
    ("role", "told_as"), [("user", "user"), ("system", "system"), ("developer", "system")]
)
def test_words_of_every_role_stay_where_they_are(role: str, told_as: str) -> None:
    told = said(QUESTION, message(role, words("a"), words("b")))

    assert told == [QUESTION, {"role": told_as, "content": "a\nb"}]


def test_instructions_and_what_developers_add_are_one_system_prompt() -> None:
    first, second = message("developer", words("a")), message("developer", words("b"))

    told = said(first, second, QUESTION, instructions="Be brief.")

    assert told == [{"role": "system", "content": "Be brief.\na\nb"}, QUESTION]


def test_a_developers_picture_is_a_message_of_its_own() -> None:
    shown = message("developer", PICTURE)

    first, second = said(message("developer", words("a")), shown)

    assert first == {"role": "system", "content": "a"}
    assert second["role"] == "developer"
    assert [part["type"] for part in second["content"]] == ["image_url"]


def test_what_was_refused_is_what_was_answered() -> None:
    (told,) = said(message("assistant", {"type": "refusal", "refusal": "I will not."}))

    assert told == {"role": "assistant", "content": "I will not."}


def test_pictures_are_parts_in_their_place() -> None:
    image = {"url": PICTURE["image_url"], "detail": "high"}

    told, result = said(
        message("user", words("What is this?"), PICTURE),
        RESULT | {"output": [PICTURE]},
    )

    assert told["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": image},
    ]
    assert result["content"] == [{"type": "image_url", "image_url": image}]


def test_the_knobs_keep_their_names() -> None:
    knobs = {"temperature": 0.5, "top_p": 0.9, "stream": True, "parallel_tool_calls": False}

    told = asked(**knobs, max_output_tokens=7)

    assert told == knobs | {"model": "m", "max_completion_tokens": 7}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {}),
        ({"top_logprobs": 0}, {}),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
    ],
)
def test_probabilities_are_asked_for_in_either_way(
    more: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert asked(**more) == {"model": "m", "stream": False} | expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ("none", "none"),
        (
            {"type": "function", "name": "get_weather"},
            {"type": "function", "function": {"name": "get_weather"}},
        ),
    ],
)
def test_a_choice_among_tools_is_the_same_choice(choice: Any, expected: Any) -> None:
    told = asked(tools=[TOOL, {"type": "web_search"}], tool_choice=choice)

    function = {"name": "get_weather", "parameters": {"type": "object"}}
    assert told["tool_choice"] == expected
    assert told["tools"] == [{"type": "function", "function": function}]


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_a_plain_format_is_the_same_format(kind: str) -> None:
    assert asked(text={"format": {"type": kind}})["response_format"] == {"type": kind}


def test_a_schema_for_the_answer_is_a_named_schema() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    wanted = {"type": "json_schema", "name": "place", "schema": schema, "strict": True}

    told = asked(text={"format": wanted})

    assert told["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize(
    "items",
    [
        [QUESTION],
        [message("user", words("What is this?"), PICTURE)],
        [message("assistant", words("a", "output_text"), {"type": "refusal", "refusal": "b"})],
        [{"role": "assistant", "content": "a"}, CALL, RESULT],
        [RESULT | {"output": [words("a"), PICTURE]}],
    ],
    ids=str,
)
def test_items_are_kept_as_the_sdk_expects_them_and_mean_the_same(
    items: list[dict[str, Any]],
) -> None:
    kept = write(*items)

    for item in kept:
        SDK_ITEM.validate_python(item, strict=True)
    assert write_items(read_items(kept), "other") == kept
    assert said(*kept) == said(*items)


def test_items_get_ids_that_say_what_they_are() -> None:
    kept = write(QUESTION | {"id": "mine"}, THOUGHT, CALL, RESULT)

    assert [item["id"] for item in kept] == ["mine", "fc_abc_i1", "fco_abc_i2"]


def test_an_item_that_a_model_wrote_and_no_request_could_have_is_refused() -> None:
    with pytest.raises(BadRequestError, match="no model can be told"):
        read_items([CALL | {"name": "a b"}])


@pytest.mark.parametrize("items", [[THOUGHT], [QUESTION] * 2049], ids=["none", "many"])
def test_a_conversation_of_no_turns_or_too_many_is_refused(items: list[dict[str, Any]]) -> None:
    request = ResponsesRequest.model_validate({"model": "m", "input": "hi"})

    with pytest.raises(BadRequestError) as refused:
        chat_request(request, read_items(items))

    assert refused.value.param == "input"
