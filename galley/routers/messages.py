"""Text, in Anthropic's shape: messages, and how long they are."""

import orjson

from galley.dialects import anthropic
from galley.dialects.anthropic_requests import chat_request
from galley.routers.front_door import Call, Endpoint
from galley.schemas.messages import (
    AnthropicMessage,
    CountTokensRequest,
    MessagesRequest,
    TokenCount,
)
from galley.services.chat import gather

_MESSAGES = [{"role": "user", "content": "What is FastAPI?"}]


async def create_message(call: Call) -> None:
    """Answer a conversation, whole or as server-sent events (`stream: true`)."""
    request = await call.parse(MessagesRequest)
    answer = await call.runtime.chat.stream(
        call.charge, chat_request(request), ignored=request.ignored
    )
    identity, stops = call.arrival.request_id, request.stop_sequences or []
    if request.stream:
        await call.stream(answer, lambda model: anthropic.MessageFrames(identity, model, stops))
        return
    (whole,) = await gather(answer, 1)
    body = anthropic.message_body(identity, call.served_model, whole, call.charge.usage, stops)
    await call.answer(orjson.dumps(body))


async def count_tokens(call: Call) -> None:
    """Count the tokens of a conversation, with the model's own template and tokenizer."""
    request = await call.parse(CountTokensRequest)
    tokens = await call.runtime.chat.count(
        call.charge, chat_request(request), ignored=request.ignored
    )
    await call.answer(orjson.dumps({"input_tokens": tokens}))


ENDPOINTS = (
    Endpoint(
        name="messages",
        scope="chat",
        paths=("/v1/messages",),
        dialect=anthropic,
        handle=create_message,
        request=MessagesRequest,
        reply=AnthropicMessage,
        example={"model": "galley/chat", "max_tokens": 64, "messages": _MESSAGES},
        body_limit="image_body_limit",
    ),
    Endpoint(
        name="count_tokens",
        scope="chat",
        paths=("/v1/messages/count_tokens",),
        dialect=anthropic,
        handle=count_tokens,
        request=CountTokensRequest,
        reply=TokenCount,
        example={"model": "galley/chat", "messages": _MESSAGES},
        body_limit="image_body_limit",
    ),
)
