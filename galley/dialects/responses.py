"""OpenAI's Responses: the object, and the events of its stream."""

from datetime import datetime
from typing import Any, TypeGuard

import orjson

from galley.core.errors import GalleyError
from galley.dialects import openai
from galley.dialects.responses_output import Event, Output
from galley.schemas.delta import Delta, FinishReason, Usage
from galley.schemas.grounding import Grounding
from galley.schemas.responses import (
    SEARCH_RESULTS,
    FileSearchTool,
    FunctionTool,
    ResponsesRequest,
    ResponseTool,
)

_CUT_SHORT: dict[FinishReason, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


def hex_of(identity: str) -> str:
    """Write a request's id as the ids of responses and their items have it."""
    return identity.replace("-", "")


class ResponseFrames:
    """Makes one response of the pieces of its answer, and frames its events.

    It is also the dialect of its own errors: in a stream they are numbered among the events, and
    tell how far the response got.

    Args:
        identity: the request's id; becomes `resp_...`.
        created: Unix seconds.
    """

    limit_headers = staticmethod(openai.limit_headers)

    def __init__(self, identity: str, created: int, request: ResponsesRequest) -> None:
        self.model = ""
        """The model that answers, once it is known."""

        self._output = Output(hex_of(identity))
        self._head = {"id": f"resp_{hex_of(identity)}", "object": "response", "created_at": created}
        self._repeated = _repeated(request)
        self._reason: FinishReason = "stop"
        self._thoughts = 0  # tokens
        self._number = 0  # of the next event
        self.whole: dict[str, Any] = {}
        """The response, once it is finished."""

        self._closing: list[Event] = []
        self._searched: list[Event] = []
        self._with_results = SEARCH_RESULTS in (request.include or ())

    def ground(self, grounding: Grounding) -> None:
        """Say what documents were found, before anything else."""
        self._searched = self._output.search(grounding, with_results=self._with_results)

    def add(self, delta: Delta) -> list[Event]:
        """Take in what `delta` brought, and say what is new."""
        self._reason = delta.finish_reason or self._reason
        if delta.reasoning:
            self._thoughts += delta.tokens
        return self._output.add(delta)

    def frame(self, delta: Delta) -> bytes:
        """Write what `delta` brought; empty when that is nothing."""
        events = self.add(delta)
        return self._framed([*self._opening(), *events]) if events else b""

    def finish(self, usage: Usage, at: datetime) -> None:
        """End the response: from now on it is `whole`."""
        reason = _CUT_SHORT.get(self._reason)
        status = "incomplete" if reason else "completed"
        self._closing = self._output.close(status)
        self.whole = self._response(
            status,
            completed_at=None if reason else int(at.timestamp()),
            incomplete_details={"reason": reason} if reason else None,
            usage=_usage_body(usage, self._thoughts),
        )

    def last(self, usage: Usage) -> bytes:
        """Write the end of the stream, after `finish`."""
        end = {"type": f"response.{self.whole['status']}", "response": self.whole}
        return self._framed([*self._opening(), *self._closing, end])

    def error_body(self, error: GalleyError, request_id: str) -> dict[str, Any]:
        """Write the `error` object, about the field that was sent."""
        body = openai.error_body(error, request_id)
        body["error"]["param"] = _param(error)
        return body

    def error_event(self, error: GalleyError, request_id: str) -> bytes:
        """Write `error`, and the response as far as it got."""
        self._output.close("incomplete")
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        told = {"code": error.code, "message": error.message, "param": _param(error)}
        failure = {"code": code, "message": error.message}
        failed = self._response("failed", error=failure)
        return self._framed(
            [
                *self._opening(),
                {"type": "error", **told},
                {"type": "response.failed", "response": failed},
            ]
        )

    def _opening(self) -> list[Event]:
        if self._number:
            return []
        empty = self._response("in_progress", output=[])
        return [
            {"type": "response.created", "response": empty},
            {"type": "response.in_progress", "response": empty},
            *self._searched,
        ]

    def _framed(self, events: list[Event]) -> bytes:
        """Frame events, named as their types. Source: WHATWG HTML, section 9.2."""
        written = b""
        for event in events:
            data = orjson.dumps({**event, "sequence_number": self._number})
            written += b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)
            self._number += 1
        return written

    def _response(self, status: str, **told: Any) -> dict[str, Any]:
        unless_told = {
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "output": self._output.bodies(),
            "usage": None,
        }
        head = self._head | {"status": status, "model": self.model}
        return head | unless_told | told | self._repeated


def _param(error: GalleyError) -> str | None:
    """Name a field as it was sent: of messages, there were none before the translation."""
    return "input" if error.param and error.param.startswith("messages") else error.param


def _repeated(request: ResponsesRequest) -> dict[str, Any]:
    """Write what a response repeats of its request."""
    choice = request.tool_choice or "auto"
    parallel = request.parallel_tool_calls
    return {
        "background": False,
        "conversation": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": request.previous_response_id,
        "prompt": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": None,
        "store": request.store is not False,
        "temperature": request.temperature,
        "text": {"format": _format_body(request), "verbosity": None},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [_tool_body(tool) for tool in request.tools or () if _is_known(tool)],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": "disabled",
        "user": None,
    }


def _format_body(request: ResponsesRequest) -> dict[str, Any]:
    wanted = request.text.format if request.text else None
    return wanted.model_dump(by_alias=True) if wanted else {"type": "text"}


def _is_known(tool: ResponseTool) -> TypeGuard[FunctionTool | FileSearchTool]:
    return isinstance(tool, FunctionTool | FileSearchTool)


def _tool_body(tool: FunctionTool | FileSearchTool) -> dict[str, Any]:
    if isinstance(tool, FileSearchTool):
        return tool.model_dump()
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _usage_body(usage: Usage, thoughts: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": min(thoughts, usage.completion_tokens)},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
