"""How many tokens a prompt can have at most, without a tokenizer: a token is a byte or more."""

import orjson

from galley.core.errors import BadRequestError
from galley.schemas.chat import ChatRequest, ImagePart, Message
from galley.schemas.completions import CompletionRequest

# What a chat template adds, generously: per conversation, per message and per tool call in one.
TEMPLATE_TOKENS, MESSAGE_TOKENS, CALL_TOKENS = 64, 16, 64

# What OpenAI's models take of an image: 85, and 170 for each of at most 8 tiles where `detail` is
# not low. Source: OpenAI API guide, Images and vision, Calculating costs.
LOW_IMAGE_TOKENS, MOST_IMAGE_TOKENS = 85, 85 + 8 * 170

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


def likely_tokens(text: str) -> int:
    """Guess how many tokens `text` has."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def too_long(
    request: ChatRequest | CompletionRequest, context: int, tokens: str
) -> BadRequestError:
    """Say that a prompt of so many `tokens`, in words, does not fit into `context`."""
    return BadRequestError(
        f"This model's context is {context} tokens, and the prompt alone has {tokens}. Shorten it.",
        code="context_length_exceeded",
        param="messages" if isinstance(request, ChatRequest) else "prompt",
    )


def refuse_images(request: ChatRequest) -> None:
    """Refuse images, for a model that cannot see.

    Raises:
        BadRequestError: there is one; `param` names its message.
    """
    for number, message in enumerate(request.messages):
        if message.images:
            raise BadRequestError(
                "This model reads text only; it cannot see images.",
                code="unsupported_content",
                param=f"messages[{number}].content",
            )


def _size(message: Message) -> int:
    """What the template is given of a message: bytes, and tokens for images."""
    calls, content = message.tool_calls or (), message.content
    if isinstance(content, str) and content and not (calls or message.name or message.tool_call_id):
        return len(content.encode())  # most are as simple
    texts = [message.text, message.name or "", message.tool_call_id or ""]
    for call in calls:
        texts += call.id, call.function.name, call.function.arguments
    size = sum(len(text.encode()) for text in texts) + CALL_TOKENS * len(calls)
    return size + sum(map(_image_tokens, message.images))


def _image_tokens(part: ImagePart) -> int:
    return LOW_IMAGE_TOKENS if part.image_url.detail == "low" else MOST_IMAGE_TOKENS
