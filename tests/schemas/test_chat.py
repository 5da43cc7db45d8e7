"""Chat requests beyond the shape of single fields."""

from typing import Any

import pytest

from galley.engines.openai_http import chat_body
from galley.schemas.chat import ChatRequest, SimpleChatRequest
from galley.schemas.completions import CompletionRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_inert_fields_are_named_wherever_they_are() -> None:
    request = ChatRequest.model_validate(
        CHAT
        | {
            "user": "u",
            "stream": True,
            "stream_options": {"include_obfuscation": True},
            "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
            "messages": [{"role": "user", "content": "hi", "annotations": []}],
        }
    )

    assert request.ignored == ["annotations", "include_obfuscation", "strict", "user"]


def test_what_an_sdk_adds_to_an_answer_is_read_named_and_not_sent_on() -> None:
    function = {"name": "f", "arguments": "{}"}
    call = {"id": "c", "type": "function", "function": function}
    said = {"role": "assistant", "content": "Hi", "tool_calls": [call]}
    parsed_call = call | {"index": 0, "function": function | {"parsed_arguments": {}}}
    added = {
        "refusal": None,
        "function_call": None,
        "parsed": {"a": [1]},
        "reasoning": "Hm",
        "reasoning_content": "Hm",
        "tool_calls": [parsed_call],
    }
    part = {"type": "text", "text": "hi"}
    cached = {"role": "user", "content": [part | {"cache_control": {"type": "ephemeral"}}]}

    request = ChatRequest.model_validate({"model": "m", "messages": [said | added, cached]})

    assert chat_body(request, 0)["messages"] == [said, {"role": "user", "content": [part]}]
    assert request.ignored == [
        "cache_control",
        "function_call",
        "index",
        "parsed",
        "parsed_arguments",
        "reasoning",
        "reasoning_content",
    ]


@pytest.mark.parametrize(
    "said", [{}, {"content": None}, {"content": []}, {"content": None, "tool_calls": []}]
)
def test_an_assistants_turn_may_be_empty(said: dict[str, Any]) -> None:
    turn = {"role": "assistant"} | said

    request = ChatRequest.model_validate(CHAT | {"messages": [turn]})

    assert chat_body(request, 0)["messages"][0]["content"] == ""


def test_a_refusal_stands_for_the_content_that_is_missing() -> None:
    turn = {"role": "assistant", "content": None, "refusal": "No."}

    request = ChatRequest.model_validate(CHAT | {"messages": [turn]})

    assert chat_body(request, 0)["messages"][0]["content"] == "No."


@pytest.mark.parametrize("content", [None, []])
@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_nobody_else_says_nothing(role: str, content: list[Any] | None) -> None:
    turn = {"role": role, "content": content, "tool_call_id": "c"}

    with pytest.raises(ValueError, match="needs content"):
        ChatRequest.model_validate(CHAT | {"messages": [turn]})


def test_a_tool_of_an_unknown_type_is_named_and_not_sent_on() -> None:
    known = {"type": "function", "function": {"name": "f"}}
    tools = [{"type": "web_search", "search_context_size": "low"}, known, {"type": "custom"}]

    request = ChatRequest.model_validate(CHAT | {"tools": tools})
    alone = ChatRequest.model_validate(CHAT | {"tools": tools[:1], "tool_choice": "auto"})

    assert request.ignored == ["tools[0]", "tools[2]"]
    assert chat_body(request, 0)["tools"] == [known]
    assert not {"tools", "tool_choice"} & set(chat_body(alone, 0))


def test_a_call_cannot_be_required_of_unknown_tools_alone() -> None:
    with pytest.raises(ValueError, match="needs tools"):
        ChatRequest.model_validate(
            CHAT | {"tools": [{"type": "web_search"}], "tool_choice": "required"}
        )


def seeing(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"model": "m", "messages": [{"role": "user", "content": [part]}]}


def test_an_image_comes_with_the_request_and_is_sent_on_as_it_came() -> None:
    body = seeing("data:image/svg+xml;base64,AAAA")

    sent = chat_body(ChatRequest.model_validate(body), 0)["messages"][0]["content"][0]

    assert sent["image_url"] == {"url": "data:image/svg+xml;base64,AAAA", "detail": "auto"}


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/data:image/png;base64,AAAA",
        " data:image/png;base64,AAAA",
        "http://localhost/\ndata:image/png;base64,AAAA",
        "file:///etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
        "",
    ],
)
def test_an_address_of_an_image_never_reaches_who_might_fetch_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"addresses are not fetched.*data:image/"):
        ChatRequest.model_validate(seeing(url))


@pytest.mark.parametrize(
    ("shape", "prompt"),
    [(ChatRequest, CHAT), (CompletionRequest, {"model": "m", "prompt": "hi"})],
)
def test_options_of_a_stream_may_be_null(
    shape: type[ChatRequest | CompletionRequest], prompt: dict[str, Any]
) -> None:
    options = {"include_usage": None, "include_obfuscation": None}

    request = shape.model_validate(prompt | {"stream": True, "stream_options": options})

    assert request.stream_options is not None
    assert not request.stream_options.include_usage


def test_a_format_without_a_schema_is_one_that_allows_everything() -> None:
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": None}}

    request = ChatRequest.model_validate(CHAT | {"response_format": named})

    assert chat_body(request, 0)["response_format"]["json_schema"]["schema"] == {}


def test_the_simple_chat_is_a_chat_with_nothing_ignored() -> None:
    simple = SimpleChatRequest.model_validate({"messages": CHAT["messages"], "temperature": 0.7})

    chat = simple.as_chat(stream=True)

    assert (chat.model, chat.temperature, chat.stream) == ("galley/chat", 0.7, True)
    assert chat.ignored == []


def test_null_is_the_same_as_nothing() -> None:
    nullable = ["stream", "stop", "n", "seed", "temperature", "tools", "response_format"]

    unset = ChatRequest.model_validate(CHAT)
    null = ChatRequest.model_validate(CHAT | dict.fromkeys(nullable))

    assert (null.choices, null.stops, null.limit) == (unset.choices, unset.stops, unset.limit)
    assert not null.stream
