"""Text: chat completions, text completions and the simple chat."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from galley.core.errors import PermissionDeniedError
from galley.dialects import native, openai
from galley.routers.front_door import Call, Endpoint
from galley.schemas.chat import ChatCompletion, ChatRequest, SimpleChatReply, SimpleChatRequest
from galley.schemas.completions import Completion, CompletionRequest
from galley.schemas.delta import Delta
from galley.services.chat import gather


async def create_chat_completion(call: Call) -> None:
    """Answer a conversation, whole or as server-sent events (`stream: true`)."""
    request = await call.parse(ChatRequest)
    answer = await call.runtime.chat.stream(call.charge, request)
    identity, created = call.arrival.request_id, int(call.arrival.at.timestamp())
    if request.stream:
        with_usage = bool(request.stream_options and request.stream_options.include_usage)
        await call.stream(
            answer,
            lambda model: openai.ChatFrames(
                identity, created, model, with_usage=with_usage, more=_grounding(call)
            ),
        )
        return
    answers = await gather(answer, request.choices)
    body = openai.chat_body(identity, created, call.served_model, answers, call.charge.usage)
    await call.answer(orjson.dumps(body | _grounding(call)))


async def create_completion(call: Call) -> None:
    """Continue a prompt, whole or as server-sent events (`stream: true`)."""
    request = await call.parse(CompletionRequest)
    answer = await call.runtime.chat.stream(call.charge, request)
    identity, created = call.arrival.request_id, int(call.arrival.at.timestamp())
    echoes = _echoes(request)
    if request.stream:
        with_usage = bool(request.stream_options and request.stream_options.include_usage)
        await call.stream(
            answer,
            lambda model: openai.CompletionFrames(
                identity, created, model, with_usage=with_usage, echoes=echoes
            ),
        )
        return
    answers = await gather(answer, request.choices)
    for one, echo in zip(answers, echoes, strict=False):  # without echo there is none
        one.text = echo + one.text
    body = openai.completion_body(identity, created, call.served_model, answers, call.charge.usage)
    await call.answer(orjson.dumps(body))


async def chat(call: Call) -> None:
    """Answer a conversation with one text."""
    request = (await call.parse(SimpleChatRequest)).as_chat(stream=False)
    answer = await call.runtime.chat.stream(call.charge, request)
    (answer,) = await gather(_unfiltered(answer), 1)
    await call.answer(orjson.dumps({"response": answer.text}))


async def stream_chat(call: Call) -> None:
    """Answer a conversation piece by piece: `data: {"delta": "..."}`, then `data: [DONE]`."""
    request = (await call.parse(SimpleChatRequest)).as_chat(stream=True)
    answer = await call.runtime.chat.stream(call.charge, request)
    await call.stream(_unfiltered(answer), lambda _: native.SimpleFrames())


async def _unfiltered(answer: AsyncGenerator[list[Delta]]) -> AsyncGenerator[list[Delta]]:
    """Insist that an answer is whole: here there is no other way to say that it is not.

    Raises:
        PermissionDeniedError: a content filter has ended it.
    """
    async with aclosing(answer):
        async for pieces in answer:
            yield pieces
            if any(delta.finish_reason == "content_filter" for delta in pieces):
                raise PermissionDeniedError(
                    "A content filter has ended the answer.", code="content_filtered"
                )


def _grounding(call: Call) -> dict[str, Any]:
    """Say what the answer rests on, where documents were asked."""
    grounding = call.charge.grounding
    return {"galley": grounding.json_object()} if grounding else {}


def _echoes(request: CompletionRequest) -> list[str]:
    """Return what each answer begins with: its prompt, where the request says so."""
    if not request.echo:
        return []
    return [str(prompt) for prompt in request.prompts for _ in range(request.n or 1)]


_MESSAGES = [{"role": "user", "content": "What is FastAPI?"}]

ENDPOINTS = (
    Endpoint(
        name="chat",
        scope="chat",
        paths=("/v1/chat/completions",),
        dialect=openai,
        handle=create_chat_completion,
        request=ChatRequest,
        reply=ChatCompletion,
        example={"model": "galley/chat", "messages": _MESSAGES, "max_completion_tokens": 64},
        body_limit="image_body_limit",
    ),
    Endpoint(
        name="completions",
        scope="chat",
        paths=("/v1/completions",),
        dialect=openai,
        handle=create_completion,
        request=CompletionRequest,
        reply=Completion,
        example={"model": "galley/chat", "prompt": "FastAPI is", "max_tokens": 32},
    ),
    Endpoint(
        name="chat",
        scope="chat",
        paths=("/v1/chat", "/chat", "/v1/conversation"),
        dialect=native,
        handle=chat,
        request=SimpleChatRequest,
        reply=SimpleChatReply,
        example={"messages": _MESSAGES, "temperature": 0.7, "max_tokens": 64},
        body_limit="image_body_limit",
    ),
    Endpoint(
        name="chat",
        scope="chat",
        paths=("/v1/chat/stream", "/chat/stream"),
        dialect=native,
        handle=stream_chat,
        request=SimpleChatRequest,
        reply=SimpleChatReply,
        example={"messages": _MESSAGES, "temperature": 0.7, "max_tokens": 64},
        body_limit="image_body_limit",
    ),
)
