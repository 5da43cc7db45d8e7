"""Chat requests beyond the shape of single fields."""

from typing import Any

from galley.schemas.chat import ChatRequest, SimpleChatRequest

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
