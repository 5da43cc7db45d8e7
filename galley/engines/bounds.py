"""How many tokens a prompt can have at most, without a tokenizer: a token is a byte or more."""

import orjson

from galley.schemas.chat import ChatRequest, Message
from galley.schemas.completions import CompletionRequest

# What a chat template adds, generously: per conversation, per message and per tool call in one.
TEMPLATE_TOKENS, MESSAGE_TOKENS, CALL_TOKENS = 64, 16, 64

BYTES_PER_TOKEN = 4
"""In ordinary text, about."""


def most_prompt_tokens(request: ChatRequest | CompletionRequest) -> list[int]:
    """Return a bound for each prompt of `request`; a conversation is one."""
    if isinstance(request, CompletionRequest):
        return [1 + (len(p.encode()) if isinstance(p, str) else len(p)) for p in request.prompts]
    size = sum(map(_size, request.messages))
    if request.functions:
        size += len(orjson.dumps([tool.model_dump() for tool in request.functions]))
    return [size + TEMPLATE_TOKENS + MESSAGE_TOKENS * len(request.messages)]


def likely_prompt_tokens(request: ChatRequest | CompletionRequest, choice: int) -> int:
    """Guess how many tokens the prompt of answer `choice` has, where nobody counts them."""
    if isinstance(request, ChatRequest):
        return most_prompt_tokens(request)[0] // BYTES_PER_TOKEN
    prompt = request.prompts[choice // (request.n or 1)]
    return 1 + len(prompt.encode()) // BYTES_PER_TOKEN if isinstance(prompt, str) else len(prompt)


def _size(message: Message) -> int:
    """Bytes that the template is given of a message."""
    texts = [message.text, message.name or "", message.tool_call_id or ""]
    calls = message.tool_calls or ()
    for call in calls:
        texts += call.id, call.function.name, call.function.arguments
    return sum(len(text.encode()) for text in texts) + CALL_TOKENS * len(calls)
