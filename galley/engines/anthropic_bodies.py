"""From a conversation of ours to the body of a request to Anthropic's Messages API.

Source: Anthropic API reference, Create a Message and Count tokens in a Message.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import orjson

from galley.core.errors import BadRequestError
from galley.schemas.chat import (
    ChatRequest,
    ImagePart,
    JsonSchemaFormat,
    Message,
    MessageToolCall,
    NamedTool,
    Tool,
)

DEFAULT_MAX_TOKENS = 4096
"""Anthropic wants to be told how long an answer may be; every model of theirs can make these."""

_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_UNKNOWN = ("frequency_penalty", "presence_penalty", "logit_bias", "seed", "logprobs")
_TURNS = {"tool": "user"}  # what a tool answered is told by the user
_NO_PARAMETERS = {"type": "object", "properties": dict[str, Any]()}


def refuse_unknown(request: ChatRequest) -> None:
    """Refuse what Anthropic's API has no word for.

    Raises:
        BadRequestError: it names the field.
    """
    for name in _UNKNOWN:
        if getattr(request, name):
            raise _unsupported(f"{name} is unknown to this model's server.", name)
    if request.response_format is not None and request.response_format.type == "json_object":
        raise _unsupported(
            "This model's server writes JSON to a schema only: use type json_schema.",
            "response_format",
        )
    for number, message in enumerate(request.messages):
        if message.name is not None and message.role != "tool":
            raise _unsupported(
                "name is unknown to this model's server.", f"messages[{number}].name"
            )
    if request.messages[-1].role == "assistant":
        raise _unsupported("The conversation must end with a message of the user's.", "messages")


def messages_body(request: ChatRequest) -> dict[str, Any]:
    """Write a request for one answer, streamed.

    Raises:
        BadRequestError: a tool call in it has arguments that are no JSON object.
    """
    body = prompt_body(request) | {
        "max_tokens": request.limit or DEFAULT_MAX_TOKENS,
        "stream": True,
    }
    if request.temperature is not None:
        body["temperature"] = min(request.temperature, 1.0)  # theirs ends at 1, OpenAI's at 2
    for name in ("top_p", "top_k"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stops:
        body["stop_sequences"] = request.stops
    return body


def prompt_body(request: ChatRequest) -> dict[str, Any]:
    """Write what the tokens of a prompt are counted of.

    Raises:
        BadRequestError: as `messages_body`.
    """
    body: dict[str, Any] = {"messages": list(_turns(request.messages))}
    told = [m.text for m in request.messages if m.role in ("system", "developer")]
    if system := "\n\n".join(text for text in told if text):
        body["system"] = system
    if request.functions:
        body["tools"] = [_tool(tool) for tool in request.functions]
        if choice := _tool_choice(request):
            body["tool_choice"] = choice
    if isinstance(request.response_format, JsonSchemaFormat):
        schema = request.response_format.json_schema.schema_
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return body


def _turns(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Messages of one side that follow each other are one turn: results must be in one."""
    spoken = [m for m in messages if m.role not in ("system", "developer")]
    for role, group in groupby(spoken, key=lambda m: _TURNS.get(m.role, m.role)):
        blocks = [block for message in group for block in _blocks(message)]
        if blocks:
            yield {"role": role, "content": blocks}


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    said = list(_content(message))
    if message.role == "tool":
        yield {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": said}
        return
    yield from said
    for call in message.tool_calls or ():
        yield {
            "type": "tool_use",
            "id": call.id,
            "name": call.function.name,
            "input": _input(call),
        }


def _content(message: Message) -> Iterator[dict[str, Any]]:
    """Write text and pictures as blocks; empty ones are refused over there."""
    if not isinstance(message.content, list):
        if message.text:
            yield {"type": "text", "text": message.text}
        return
    for part in message.content:
        if isinstance(part, ImagePart):
            yield _image(part)
        elif text := part.text if part.type == "text" else part.refusal:
            yield {"type": "text", "text": text}


def _image(part: ImagePart) -> dict[str, Any]:
    head, _, data = part.image_url.url.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _input(call: MessageToolCall) -> dict[str, Any]:
    try:
        found = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise BadRequestError(
            f"The arguments of the tool call {call.id!r} are no JSON object.",
            code="invalid_request",
            param="messages",
        )
    return found


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    told: dict[str, Any] = {
        "name": function.name,
        "input_schema": {"type": "object"} | (function.parameters or _NO_PARAMETERS),
    }
    return told | ({"description": function.description} if function.description else {})


def _tool_choice(request: ChatRequest) -> dict[str, Any] | None:
    wanted = request.tool_choice
    one_at_a_time = request.parallel_tool_calls is False and wanted != "none"
    if wanted is None and not one_at_a_time:
        return None
    if isinstance(wanted, NamedTool):
        choice: dict[str, Any] = {"type": "tool", "name": wanted.function.name}
    else:
        choice = {"type": _CHOICES[wanted or "auto"]}
    return choice | ({"disable_parallel_tool_use": True} if one_at_a_time else {})


def _unsupported(message: str, param: str) -> BadRequestError:
    return BadRequestError(message, code="unsupported_parameter", param=param)
