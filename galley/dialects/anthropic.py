"""Anthropic's wire formats: errors, limits, whole messages and stream frames.

Frames are written by hand around the few values that change: a stream has one per token.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from galley.core.errors import BadRequestError, GalleyError
from galley.schemas.account import AnthropicModel, AnthropicModelList
from galley.schemas.delta import Answer, Delta, FinishReason, ToolCall, Usage

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_TEXT_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)


def error_body(error: GalleyError, request_id: str) -> dict[str, Any]:
    """Write the `error` object; our code is where Anthropic's SDKs read `error_code`.

    Source: Anthropic API reference, Errors.
    """
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    told: dict[str, Any] = {
        "type": ERROR_TYPES.get(error.status, usual),
        "message": error.message,
        "details": {"error_code": error.code},
    }
    return {"type": "error", "error": told, "request_id": request_id}


def error_event(error: GalleyError, request_id: str) -> bytes:
    """Write `error` as the last event of a stream."""
    return event(error_body(error, request_id))


def event(data: dict[str, Any]) -> bytes:
    """Frame one server-sent event, named as its type. Source: WHATWG HTML, section 9.2."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), orjson.dumps(data))


def limit_headers(
    headers: Sequence[tuple[bytes, bytes]], now: datetime
) -> list[tuple[bytes, bytes]]:
    """Say `x-ratelimit-...` in Anthropic's words as well.

    Source: Anthropic API reference, Rate limits, response headers.
    """
    return [*headers, *(_limit_header(name, value, now) for name, value in headers)]


def usage_body(usage: Usage) -> dict[str, Any]:
    """Write `usage`; here `input_tokens` are without those that were in the cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
    }


def message_body(
    identity: str, model: str, answer: Answer, usage: Usage, stops: Sequence[str]
) -> dict[str, Any]:
    """Write a whole message.

    Args:
        identity: the request's id; becomes `msg_...`.
        stops: the request's stop sequences.
    """
    content: list[dict[str, Any]] = []
    if answer.reasoning:
        content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    content += [
        _tool_use(call.id or f"toolu_{identity}_{number}", call.name, _input(call))
        for number, call in enumerate(answer.tool_calls)
    ]
    ending = _ending(
        answer.finish_reason, answer.stop_sequence, stops, called=bool(answer.tool_calls)
    )
    return _message(identity, model) | {"content": content, **ending, "usage": usage_body(usage)}


class MessageFrames:
    """Frames of one streamed message; the arguments are those of `message_body`."""

    def __init__(self, identity: str, model: str, stops: Sequence[str]) -> None:
        self._identity = identity
        self._head = _message(identity, model)
        self._stops = stops
        self._usage = Usage()
        self._reason: FinishReason = "stop"
        self._stop_sequence: str | None = None
        self._calls: dict[int, str] = {}  # the ids of calls, by number
        self._blocks: dict[str, int] = {}  # where they are, by id
        self._started = False
        self._open: str | None = None  # the type of the block that is open
        self._index = -1  # of the block that is open, or else of the last one

    def frame(self, delta: Delta) -> bytes:
        """Write what `delta` brought; empty when that is nothing."""
        self._usage = delta.usage or self._usage
        self._reason = delta.finish_reason or self._reason
        self._stop_sequence = delta.stop_sequence or self._stop_sequence
        written = b""
        if delta.reasoning:
            if self._open != "thinking":
                written += self._begin({"type": "thinking", "thinking": "", "signature": ""})
            written += self._delta({"type": "thinking_delta", "thinking": delta.reasoning})
        if delta.text:
            if self._open != "text":
                written += self._begin({"type": "text", "text": ""})
            written += _TEXT_DELTA % (self._index, orjson.dumps(delta.text))
        for call in delta.tool_calls:
            written += self._call(call)
        return written

    def last(self, usage: Usage) -> bytes:
        """Write the end of the stream: why it ended, and what it took."""
        ending = _ending(self._reason, self._stop_sequence, self._stops, called=bool(self._calls))
        told = {"type": "message_delta", "delta": ending, "usage": usage_body(usage)}
        return self._start() + self._close() + event(told) + event({"type": "message_stop"})

    def _call(self, call: ToolCall) -> bytes:
        usual = self._calls.get(call.index) or f"toolu_{self._identity}_{call.index}"
        identity = self._calls[call.index] = call.id or usual
        written = b""
        if identity not in self._blocks:
            written = self._begin(_tool_use(identity, call.name, {}))
            self._blocks[identity] = self._index
        if call.arguments:
            delta = {"type": "input_json_delta", "partial_json": call.arguments}
            written += self._delta(delta, self._blocks[identity])
        return written

    def _start(self) -> bytes:
        """Write the message's head, once."""
        if self._started:
            return b""
        self._started = True
        nothing: list[Any] = []
        ending = {"stop_reason": None, "stop_sequence": None, "stop_details": None}
        message = self._head | {"content": nothing, **ending, "usage": usage_body(self._usage)}
        return event({"type": "message_start", "message": message})

    def _begin(self, block: dict[str, Any]) -> bytes:
        """Close the block that is open, and open another."""
        written = self._start() + self._close()
        self._open = block["type"]
        self._index += 1
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        ping = event({"type": "ping"}) if self._index == 0 else b""
        return written + event(start) + ping

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signature = b""
        if self._open == "thinking":
            signature = self._delta({"type": "signature_delta", "signature": ""})
        self._open = None
        return signature + event({"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: dict[str, Any], index: int | None = None) -> bytes:
        index = self._index if index is None else index
        return event({"type": "content_block_delta", "index": index, "delta": delta})


def model_page(
    models: list[AnthropicModel], *, after_id: str | None, before_id: str | None, limit: int
) -> AnthropicModelList:
    """Cut a page out of `models`.

    Raises:
        BadRequestError: the page is to begin after, or end before, no model of the list.
    """
    names = [model.id for model in models]
    try:
        first = names.index(after_id) + 1 if after_id is not None else 0
        end = names.index(before_id) if before_id is not None else len(names)
    except ValueError:
        raise BadRequestError(
            "after_id and before_id must be ids from this list.", code="invalid_cursor"
        ) from None
    found = models[first:end]
    page = found[:limit] if before_id is None else found[-limit:]
    return AnthropicModelList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )


def _limit_header(name: bytes, value: bytes, now: datetime) -> tuple[bytes, bytes]:
    what, _, of = name.removeprefix(b"x-ratelimit-").partition(b"-")
    if what == b"reset":
        resets = now + timedelta(seconds=int(value.removesuffix(b"s")))
        value = resets.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    return b"anthropic-ratelimit-%b-%b" % (of, what), value


def _message(identity: str, model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{identity}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "container": None,
    }


def _tool_use(identity: str, name: str | None, given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": identity, "name": name or "", "input": given}


def _input(call: ToolCall) -> dict[str, Any]:
    """Read a call's arguments; where they broke off (`max_tokens`), there are none."""
    try:
        found = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _ending(
    reason: FinishReason, stop_sequence: str | None, stops: Sequence[str], *, called: bool
) -> dict[str, Any]:
    """Say why it ended; which stop sequence it was, some servers do not tell."""
    told = _STOP_REASONS[reason]
    stopped_by = stop_sequence if reason == "stop" and stop_sequence in stops else None
    if called and reason == "stop":
        told = "tool_use"
    elif stopped_by is not None:
        told = "stop_sequence"
    return {"stop_reason": told, "stop_sequence": stopped_by, "stop_details": None}
