"""From Anthropic's requests to the one kind of conversation that engines know."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import orjson
from pydantic import ValidationError

from galley.core.errors import BadRequestError
from galley.dialects.prompts import join_prompts
from galley.schemas.chat import (
    ChatRequest,
    Content,
    ContentPart,
    Function,
    FunctionCall,
    ImagePart,
    ImageUrl,
    JsonSchemaFormat,
    Message,
    MessageToolCall,
    NamedFunction,
    NamedSchema,
    NamedTool,
    TextPart,
    Tool,
)
from galley.schemas.messages import (
    Block,
    CountTokensRequest,
    CustomTool,
    ImageBlock,
    MessagesRequest,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(request: CountTokensRequest) -> ChatRequest:
    """Say `request` in the mother tongue.

    Raises:
        BadRequestError: its blocks make more messages than a conversation may have, or the
            conversation is to be kept.
    """
    told = _wanted(request) if isinstance(request, MessagesRequest) else {}
    try:
        return ChatRequest(
            model=request.model,
            messages=[*join_prompts([*_system(request), *_messages(request.messages)])],
            response_format=_format(request),
            **told,
            **_tools(request),
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise BadRequestError(
            f"messages: {fault['msg']}, tool results and calls counted one by one",
            code="invalid_request",
            param="messages",
        ) from None


def _wanted(request: MessagesRequest) -> dict[str, Any]:
    if request.thread is not None:
        raise BadRequestError(
            "thread: conversations are not kept here; send all messages, without `thread`",
            code="thread_unsupported_request",  # the SDK's tool runner then does so
            param="thread",
        )
    return {
        "max_tokens": request.max_tokens,
        "stream": request.stream,
        "stop": request.stop_sequences or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
    }


def _system(request: CountTokensRequest) -> Iterator[Message]:
    said = request.system
    text = said if isinstance(said, str) else "\n".join(block.text for block in said or ())
    if text:
        yield Message(role="system", content=text)


def _messages(turns: Sequence[Turn]) -> Iterator[Message]:
    """Turns of one role that follow each other are one, as they are for Anthropic."""
    for answered, group in groupby(turns, key=lambda turn: turn.role == "assistant"):
        if answered:
            yield _answer([block for turn in group for block in turn.blocks])
        else:
            yield from _told([*group])


def _told(turns: Sequence[Turn]) -> Iterator[Message]:
    """Say what comes before an answer: the results of calls first, and the user's words last.

    Claude Code sends system turns after a question; models answer what is said last.
    """
    for turn in turns:
        yield from _results(turn.blocks)
    said = [[*group] for _, group in groupby(turns, key=lambda turn: turn.role)]
    if said[-1][0].role == "system":
        said[-2:] = reversed(said[-2:])
    for group in said:
        blocks = [block for turn in group for block in turn.blocks]
        if words := [block for block in blocks if isinstance(block, TextBlock | ImageBlock)]:
            yield Message(role=group[0].role, content=_content(words))


def _results(blocks: Sequence[Block]) -> Iterator[Message]:
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            content = _content(block.content, error=bool(block.is_error))
            yield Message(role="tool", tool_call_id=block.tool_use_id, content=content)


def _answer(blocks: Sequence[Block]) -> Message:
    text = "\n".join(block.text for block in blocks if isinstance(block, TextBlock))
    calls = [
        MessageToolCall(
            id=block.id,
            function=FunctionCall(name=block.name, arguments=orjson.dumps(block.input).decode()),
        )
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    return Message(role="assistant", content=text or None, tool_calls=calls or None)


def _content(
    said: str | Sequence[TextBlock | ImageBlock] | None, *, error: bool = False
) -> Content:
    """Write what was said as plain text where it is that, for servers that take nothing else."""
    blocks = [TextBlock(type="text", text=said)] if isinstance(said, str) else [*(said or ())]
    if error:  # the mother tongue has no other way to say so
        blocks.insert(0, TextBlock(type="text", text="The tool failed:"))
    parts: list[ContentPart] = [_part(block) for block in blocks]
    if any(isinstance(part, ImagePart) for part in parts):
        return parts
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))


def _part(block: TextBlock | ImageBlock) -> TextPart | ImagePart:
    if isinstance(block, TextBlock):
        return TextPart(type="text", text=block.text)
    url = f"data:{block.source.media_type};base64,{block.source.data}"
    return ImagePart(type="image_url", image_url=ImageUrl(url=url))


def _tools(request: CountTokensRequest) -> dict[str, Any]:
    told: dict[str, Any] = {"tools": [_tool(tool) for tool in request.custom_tools] or None}
    if (choice := request.tool_choice) is None:
        return told
    if choice.disable_parallel_tool_use is not None:
        told["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if choice.name is not None:
        named = NamedTool(type="function", function=NamedFunction(name=choice.name))
        return told | {"tool_choice": named}
    return told | {"tool_choice": _CHOICES[choice.type]}


def _tool(tool: CustomTool) -> Tool:
    function = Function(name=tool.name, description=tool.description, parameters=tool.input_schema)
    return Tool(type="function", function=function)


def _format(request: CountTokensRequest) -> JsonSchemaFormat | None:
    if request.output_config is None or (wanted := request.output_config.format) is None:
        return None
    named = NamedSchema(name="answer", schema=wanted.schema_)
    return JsonSchemaFormat(type="json_schema", json_schema=named)
