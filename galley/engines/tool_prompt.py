"""Tools for models whose chat template has none.

The tools go into the system prompt; a call is a JSON object, forced by a schema where the
request says so, and left to the model with `tool_choice: "auto"`.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson

from galley.schemas.chat import ChatRequest, Message, NamedTool, Tool
from galley.schemas.delta import Delta, ToolCall

_INTRODUCTION = "You can call these tools:"
_FREE = (
    'To call one, answer with nothing but JSON: {"name": "...", "arguments": {...}}. '
    "Otherwise answer in plain text."
)
_RESULT = "Result of the tool call:"
_FORCED = 'Answer with nothing but the JSON of one call: {"name": "...", "arguments": {...}}.'


def offered(request: ChatRequest) -> list[Tool]:
    """Return the tools that the model may call in this request."""
    if request.tool_choice == "none":
        return []
    tools = request.functions
    if isinstance(request.tool_choice, NamedTool):
        return [t for t in tools if t.function.name == request.tool_choice.function.name]
    return tools


def is_forced(request: ChatRequest) -> bool:
    """Say whether the answer has to be a call."""
    return request.tool_choice == "required" or isinstance(request.tool_choice, NamedTool)


def call_schema(tools: list[Tool]) -> dict[str, Any]:
    """Describe a call of one of `tools`, as JSON schema."""
    if len(tools) == 1:
        return _call_schema(tools[0], "#")
    return {"anyOf": [_call_schema(tool, f"#/anyOf/{i}") for i, tool in enumerate(tools)]}


def _call_schema(tool: Tool, place: str) -> dict[str, Any]:
    parameters = tool.function.parameters or {"type": "object"}
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.function.name},
            "arguments": _moved(parameters, f"{place}/properties/arguments"),
        },
        "required": ["name", "arguments"],
    }


def _moved(schema: Any, place: str) -> Any:
    """Point every `$ref` to where its target is once `schema` is a part of another."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(item, place) for name, item in schema.items()}
    if isinstance(reference := schema.get("$ref"), str):
        moved["$ref"] = place + reference.removeprefix("#")
    return moved


def plain_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Write the conversation, tools included, with system, user and assistant turns alone."""
    turns = [_plain(message) for message in request.messages]
    tools = offered(request)
    if tools:
        listed = "\n".join(
            orjson.dumps(t.function.model_dump(exclude_none=True)).decode() for t in tools
        )
        rule = _FORCED if is_forced(request) else _FREE
        prompt = f"{_INTRODUCTION}\n{listed}\n{rule}"
        if turns[0]["role"] == "system" and isinstance(turns[0]["content"], str):
            turns[0] = {"role": "system", "content": f"{turns[0]['content']}\n\n{prompt}"}
        else:
            turns.insert(0, {"role": "system", "content": prompt})
    return turns


def _plain(message: Message) -> dict[str, Any]:
    if message.images:
        return _with_images(message)
    if message.role == "tool":
        return {"role": "user", "content": f"{_RESULT}\n{message.text}"}
    if message.tool_calls:
        calls = [
            f'{{"name": {json.dumps(call.function.name)}, "arguments": {call.function.arguments}}}'
            for call in message.tool_calls
        ]
        return {"role": "assistant", "content": "\n".join(filter(None, [message.text, *calls]))}
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": message.text}


def _with_images(message: Message) -> dict[str, Any]:
    """Keep the parts of a message, and their order, for a model that sees."""
    parts = message.model_dump(exclude_none=True)["content"]
    if message.role == "tool":
        return {"role": "user", "content": [{"type": "text", "text": _RESULT}, *parts]}
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": parts}


async def read_calls(
    answer: AsyncGenerator[list[Delta]], tools: list[Tool], call_id: str
) -> AsyncGenerator[list[Delta]]:
    """Turn an answer that is a call into one, and leave every other answer as it is.

    Text is held back only while it may still become a call, that is, after an opening brace.
    Counts are never held back: what breaks off is billed all the same.
    """
    held: list[Delta] = []
    text, deciding = "", True
    async with aclosing(answer):
        async for pieces in answer:
            told: list[Delta] = []
            for piece in pieces:
                if not deciding:
                    told.append(piece)
                    continue
                told.append(Delta(index=piece.index, tokens=piece.tokens, usage=piece.usage))
                held.append(replace(piece, tokens=0, usage=None))
                text = (text + piece.text).lstrip()
                if piece.finish_reason is not None:
                    held = _as_call(held, text, tools, call_id)
                elif not text or text.startswith("{"):
                    continue
                deciding = False
                told += held
            yield told


def _as_call(held: list[Delta], text: str, tools: list[Tool], call_id: str) -> list[Delta]:
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
        name, arguments = found["name"], found["arguments"]
        written = json.dumps(arguments, allow_nan=False)
    except (ValueError, KeyError, TypeError, RecursionError):
        return held
    known = isinstance(name, str) and name in {tool.function.name for tool in tools}
    if not known or not isinstance(arguments, dict):
        return held
    index = held[-1].index
    call = ToolCall(0, call_id, name, written)
    return [Delta(index=index, tool_calls=[call]), Delta(index=index, finish_reason="tool_calls")]
