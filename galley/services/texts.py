"""The texts of a request that a model is told: to look at, and to change."""

from collections.abc import Callable, Iterator
from typing import Any

from galley.schemas.chat import (
    AnyTool,
    ChatRequest,
    Content,
    ImagePart,
    JsonSchemaFormat,
    Message,
    RefusalPart,
    TextPart,
    Tool,
)
from galley.schemas.completions import CompletionRequest

TextRequest = ChatRequest | CompletionRequest
Change = Callable[[str], str]


def texts_of(request: TextRequest) -> Iterator[str]:
    """Yield every text."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    change_texts(request, note)
    yield from found


def change_texts(request: TextRequest, change: Change) -> TextRequest:
    """Return a request whose every text is changed; token ids and images stay as they are.

    These are messages, the arguments of tool calls and what came of them, what is said of tools
    and of the answer's form, and prompts.
    """
    if isinstance(request, CompletionRequest):
        return request.model_copy(update={"prompt": _values(request.prompt, change)})
    changed: dict[str, Any] = {"messages": [_message(one, change) for one in request.messages]}
    if request.tools:
        changed["tools"] = [_tool(tool, change) for tool in request.tools]
    if isinstance(request.response_format, JsonSchemaFormat):
        changed["response_format"] = _format(request.response_format, change)
    return request.model_copy(update=changed)


def _message(message: Message, change: Change) -> Message:
    changed: dict[str, Any] = {}
    if message.content is not None:
        changed["content"] = _content(message.content, change)
    if message.refusal is not None:
        changed["refusal"] = change(message.refusal)
    if message.tool_calls:
        changed["tool_calls"] = [
            call.model_copy(
                update={
                    "function": call.function.model_copy(
                        update={"arguments": change(call.function.arguments)}
                    )
                }
            )
            for call in message.tool_calls
        ]
    return message.model_copy(update=changed)


def _content(content: Content, change: Change) -> Content:
    if isinstance(content, str):
        return change(content)
    return [_part(part, change) for part in content]


def _part(
    part: TextPart | RefusalPart | ImagePart, change: Change
) -> TextPart | RefusalPart | ImagePart:
    if isinstance(part, TextPart):
        return part.model_copy(update={"text": change(part.text)})
    if isinstance(part, RefusalPart):
        return part.model_copy(update={"refusal": change(part.refusal)})
    return part


def _tool(tool: AnyTool, change: Change) -> AnyTool:
    if not isinstance(tool, Tool):
        return tool
    function = tool.function
    changed = {
        "description": _values(function.description, change),
        "parameters": _values(function.parameters, change),
    }
    return tool.model_copy(update={"function": function.model_copy(update=changed)})


def _format(form: JsonSchemaFormat, change: Change) -> JsonSchemaFormat:
    schema = form.json_schema
    changed = {
        "description": _values(schema.description, change),
        "schema_": _values(schema.schema_, change),
    }
    return form.model_copy(update={"json_schema": schema.model_copy(update=changed)})


def _values(value: Any, change: Change) -> Any:
    """Change every text in a JSON value; names stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_values(item, change) for item in value]
    if isinstance(value, dict):
        return {name: _values(item, change) for name, item in value.items()}
    return value
