"""Anthropic's requests in the mother tongue."""

from typing import Any

import pytest

from galley.core.errors import BadRequestError
from galley.dialects.anthropic_requests import chat_request
from galley.schemas.messages import CountTokensRequest, MessagesRequest

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
CALL = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}}
PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
}
TOOL: dict[str, Any] = {"name": "get_weather", "input_schema": {"type": "object"}}


def said(*turns: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The messages that engines get."""
    body = {"model": "m", "max_tokens": 5, "messages": list(turns)} | more
    request = chat_request(MessagesRequest.model_validate(body))
    return [message.model_dump(exclude_none=True) for message in request.messages]


def asked(**more: Any) -> dict[str, Any]:
    """All that engines get, but for the messages."""
    body = {"model": "m", "max_tokens": 5, "messages": [QUESTION]} | more
    request = chat_request(MessagesRequest.model_validate(body))
    return request.model_dump(exclude={"messages"}, exclude_none=True, by_alias=True)


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize("system", ["Be brief.\nBe kind.", [text("Be brief."), text("Be kind.")]])
def test_the_system_prompt_is_the_first_message(system: Any) -> None:
    first, second = said(QUESTION, system=system)

    assert first == {"role": "system", "content": "Be brief.\nBe kind."}
    assert second == QUESTION


def test_a_system_prompt_between_the_turns_stays_there() -> None:
    rule = {"role": "system", "content": "From now on in French."}

    assert said(QUESTION, rule, QUESTION) == [QUESTION, rule, QUESTION]


def test_a_system_prompt_after_a_question_comes_before_it() -> None:
    rule = {"role": "system", "content": "Answer in French."}
    answer = {"role": "assistant", "content": "Beau."}

    told = said(QUESTION, rule, answer, QUESTION, rule, system="Be brief.")

    assert [m["content"] for m in told] == [
        "Be brief.\nAnswer in French.", QUESTION["content"], "Beau.",
        "Answer in French.", QUESTION["content"],
    ]  # fmt: skip


def test_a_system_prompt_after_a_result_comes_after_it_and_before_words() -> None:
    rule = {"role": "system", "content": "Go on."}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "17"}
    called = {"role": "assistant", "content": [CALL]}

    told = said(QUESTION, called, user(result, text("And?")), rule, tools=[TOOL])

    assert [m["role"] for m in told] == ["user", "assistant", "tool", "system", "user"]


@pytest.mark.parametrize("system", [None, "", []])
def test_no_system_prompt_is_no_message(system: Any) -> None:
    assert said(QUESTION, system=system) == [QUESTION]


def test_turns_of_one_role_that_follow_each_other_are_one() -> None:
    again = {"role": "user", "content": "And in Oslo?"}
    answer = {"role": "assistant", "content": "Fine."}

    assert [m["content"] for m in said(QUESTION, again, answer, again)] == [
        "What is the weather in Paris?\nAnd in Oslo?", "Fine.", "And in Oslo?",
    ]  # fmt: skip


def test_a_call_and_its_result_are_a_call_and_a_tool_message() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    answer = {"role": "assistant", "content": [thought, text("Let me look."), CALL]}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [text("17"), text("degrees")]}

    _, called, told, more = said(QUESTION, answer, user(result, text("And?")), tools=[TOOL])

    assert called == {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [
            {
                "id": "t1", "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
            }
        ],
    }  # fmt: skip
    assert told == {"role": "tool", "tool_call_id": "t1", "content": "17\ndegrees"}
    assert more == {"role": "user", "content": "And?"}


@pytest.mark.parametrize(
    ("more", "content"),
    [
        ({}, ""),
        ({"content": "no such city", "is_error": True}, "The tool failed:\nno such city"),
        ({"content": "17", "is_error": False}, "17"),
    ],
)
def test_a_result_says_what_came_of_the_call(more: dict[str, Any], content: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "t1"} | more

    (told,) = said(user(result))

    assert told["content"] == content


def test_pictures_are_parts_in_their_place() -> None:
    (message,) = said(user(text("What is this?"), PICTURE))

    assert message["content"] == [
        {"type": "text", "text": "What is this?"},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"},
        },
    ]


def test_the_knobs_keep_their_names_and_the_stops_get_ours() -> None:
    knobs = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "stream": True}

    told = asked(**knobs, stop_sequences=["END"])

    assert told == knobs | {"model": "m", "max_tokens": 5, "stop": ["END"]}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        (
            {"type": "tool", "name": "get_weather"},
            {"type": "function", "function": {"name": "get_weather"}},
        ),
    ],
)
def test_a_choice_among_tools_is_the_same_choice(choice: dict[str, Any], expected: Any) -> None:
    told = asked(tools=[TOOL], tool_choice=choice)

    assert told["tool_choice"] == expected
    assert told["tools"][0]["function"] == {
        "name": "get_weather", "parameters": {"type": "object"},
    }  # fmt: skip


@pytest.mark.parametrize(("disable", "expected"), [(True, False), (False, True), (None, None)])
def test_parallel_calls_can_be_forbidden(disable: bool | None, expected: bool | None) -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": disable}

    told = asked(tools=[TOOL], tool_choice=choice)

    assert told.get("parallel_tool_calls") is expected


def test_a_schema_for_the_answer_is_a_response_format() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}

    told = asked(output_config={"format": {"type": "json_schema", "schema": schema}})

    assert told["response_format"]["json_schema"]["schema"] == schema


def test_what_means_nothing_here_is_named_and_left_out() -> None:
    body: dict[str, Any] = {
        "model": "m",
        "messages": [user(text("Hi") | {"cache_control": {"type": "ephemeral"}})],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low"},
        "tools": [TOOL, {"type": "web_search_20260209", "name": "web_search", "max_uses": 3}],
    }
    request = CountTokensRequest.model_validate(body)

    assert request.ignored == ["cache_control", "effort", "thinking", "tools[1]"]
    assert chat_request(request).ignored == []
    assert [tool.function.name for tool in chat_request(request).functions] == ["get_weather"]


def test_more_results_than_a_conversation_may_have_are_refused() -> None:
    results = [{"type": "tool_result", "tool_use_id": "t", "content": "x"}] * 128

    with pytest.raises(BadRequestError, match="at most 2048"):
        said(*[user(*results)] * 17)


def test_a_conversation_that_is_to_be_kept_is_refused_in_the_words_that_the_sdk_knows() -> None:
    with pytest.raises(BadRequestError, match="send all messages") as refused:
        asked(thread={"type": "create"})

    assert refused.value.code == "thread_unsupported_request"
