"""OpenAI's wire formats: errors, whole answers and stream frames.

Frames are written by hand around the few values that change: a stream has one per token.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from galley.core.errors import GalleyError
from galley.schemas.delta import Answer, Delta, ToolCall, Usage

DONE = b"data: [DONE]\n\n"
_NOTHING_MORE: Mapping[str, Any] = {}
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def error_body(error: GalleyError, request_id: str) -> dict[str, Any]:
    """Write the `error` object. Source: OpenAI API reference, Error codes."""
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    return {
        "error": {
            "message": error.message,
            "type": ERROR_TYPES.get(error.status, usual),
            "param": error.param,
            "code": error.code,
        }
    }


def error_event(error: GalleyError, request_id: str) -> bytes:
    """Write `error` as the last event of a stream."""
    return event(error_body(error, request_id))


def limit_headers(
    headers: Sequence[tuple[bytes, bytes]], now: datetime
) -> Sequence[tuple[bytes, bytes]]:
    """Limits are told in these words everywhere."""
    return headers


def event(data: dict[str, Any]) -> bytes:
    """Frame one server-sent event. Source: WHATWG HTML, section 9.2."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def usage_body(usage: Usage) -> dict[str, Any]:
    """Write the `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class ChatFrames:
    """Frames of one streamed chat completion.

    Args:
        completion_id: the request's id; becomes `chatcmpl-...`.
        created: Unix seconds.
        with_usage: `stream_options.include_usage`; every frame then has a `usage`, null but for
            the last.
        more: what the first frame has besides.
    """

    def __init__(
        self,
        completion_id: str,
        created: int,
        model: str,
        *,
        with_usage: bool,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._more = more or _NOTHING_MORE
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{completion_id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._tail: dict[str, Any] = {"usage": None} if with_usage else {}
        before = orjson.dumps(self._head)[:-1] + b',"choices":[{"index":'
        self._before = b"data: " + before
        self._after = b'"},"logprobs":null,"finish_reason":null}]' + (
            b',"usage":null}\n\n' if with_usage else b"}\n\n"
        )
        self._started: set[int] = set()

    def frame(self, delta: Delta) -> bytes:
        """Write what `delta` brought; empty when that is nothing."""
        written = b""
        if delta.reasoning:
            written += self._choice(delta.index, {"reasoning_content": delta.reasoning}, None, None)
        if delta.tool_calls:
            if delta.text:
                written += self._text(replace(delta, finish_reason=None))
            calls = {"tool_calls": [tool_call(call) for call in delta.tool_calls]}
            written += self._choice(delta.index, calls, None, delta.finish_reason)
        elif delta.text or delta.logprobs:
            written += self._text(delta)
        elif delta.finish_reason is not None:
            written += self._choice(delta.index, {}, None, delta.finish_reason)
        return self._opening(delta.index) + written if written else b""

    def _opening(self, index: int) -> bytes:
        """Write the role, before a choice's first piece."""
        if index in self._started:
            return b""
        more, self._more = self._more, _NOTHING_MORE
        self._started.add(index)
        return self._choice(
            index, {"role": "assistant", "content": "", "refusal": None}, None, None, more
        )

    def last(self, usage: Usage) -> bytes:
        """Write the end of the stream, after the usage where it was asked for."""
        if not self._tail:
            return DONE
        return event(self._head | {"choices": [], "usage": usage_body(usage)}) + DONE

    def _text(self, delta: Delta) -> bytes:
        if delta.logprobs is None and delta.finish_reason is None:
            text = orjson.dumps(delta.text)[1:-1]
            return b'%b%d,"delta":{"content":"%b%b' % (
                self._before, delta.index, text, self._after,
            )  # fmt: skip
        content = {"content": delta.text}
        return self._choice(delta.index, content, delta.logprobs, delta.finish_reason)

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: list[dict[str, Any]] | None,
        finish_reason: str | None,
        more: Mapping[str, Any] = _NOTHING_MORE,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(logprobs),
            "finish_reason": finish_reason,
        }
        return event({**self._head, "choices": [choice], **self._tail, **more})


class CompletionFrames:
    """Frames of one streamed text completion; the arguments are those of `ChatFrames`."""

    def __init__(
        self,
        completion_id: str,
        created: int,
        model: str,
        *,
        with_usage: bool,
        echoes: list[str],
    ) -> None:
        self._head: dict[str, Any] = {
            "id": f"cmpl-{completion_id}",
            "object": "text_completion",
            "created": created,
            "model": model,
        }
        self._tail: dict[str, Any] = {"usage": None} if with_usage else {}
        self._echoes = dict(enumerate(echoes))
        self._lengths: dict[int, int] = {}

    def frame(self, delta: Delta) -> bytes:
        """Write what `delta` brought; empty when that is nothing."""
        text = self._echoes.pop(delta.index, "") + delta.text
        if not (text or delta.logprobs or delta.finish_reason):
            return b""
        offset = self._lengths.get(delta.index, 0)
        self._lengths[delta.index] = offset + len(text)
        choice = {
            "index": delta.index,
            "text": text,
            "logprobs": completion_logprobs(delta.logprobs, offset),
            "finish_reason": delta.finish_reason,
        }
        return event(self._head | {"choices": [choice]} | self._tail)

    def last(self, usage: Usage) -> bytes:
        """Write the end of the stream, after the usage where it was asked for."""
        if not self._tail:
            return DONE
        return event(self._head | {"choices": [], "usage": usage_body(usage)}) + DONE


def tool_call(call: ToolCall, *, whole: bool = False) -> dict[str, Any]:
    """Write a tool call; in a stream it has an index, and later pieces have arguments alone."""
    body: dict[str, Any] = {} if whole else {"index": call.index}
    if call.id is not None:
        body |= {"id": call.id, "type": "function"}
    function = {"name": call.name} if call.name is not None else {}
    return body | {"function": function | {"arguments": call.arguments}}


def chat_logprobs(tokens: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    """Write chat logprobs, without what llama.cpp adds to OpenAI's fields."""
    if tokens is None:
        return None
    content = [
        _token(token) | {"top_logprobs": [_token(other) for other in token.get("top_logprobs", [])]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: list[dict[str, Any]] | None, offset: int) -> dict[str, Any] | None:
    """Write the older shape: parallel lists, with each token's place in the text."""
    if tokens is None:
        return None
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            {other["token"]: other["logprob"] for other in token.get("top_logprobs", [])}
            for token in tokens
        ],
        "text_offset": offsets,
    }


def chat_body(
    completion_id: str, created: int, model: str, answers: list[Answer], usage: Usage
) -> dict[str, Any]:
    """Write a whole chat completion."""
    choices: list[dict[str, Any]] = []
    for index, answer in enumerate(answers):
        calls = [tool_call(call, whole=True) for call in answer.tool_calls]
        text = answer.text or None if calls else answer.text
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        choices.append(
            {
                "index": index,
                "message": message | ({"tool_calls": calls} if calls else {}),
                "logprobs": chat_logprobs(answer.logprobs),
                "finish_reason": answer.finish_reason,
            }
        )
    return {
        "id": f"chatcmpl-{completion_id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage_body(usage),
    }


def completion_body(
    completion_id: str, created: int, model: str, answers: list[Answer], usage: Usage
) -> dict[str, Any]:
    """Write a whole text completion."""
    choices = [
        {
            "index": index,
            "text": answer.text,
            "logprobs": completion_logprobs(answer.logprobs, 0),
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return {
        "id": f"cmpl-{completion_id}",
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage_body(usage),
    }


def embedding_body(
    vectors: NDArray[np.float32], model: str, tokens: int, *, as_base64: bool
) -> bytes:
    """Write the answer to an embeddings request, vectors as lists or little-endian base64."""
    if as_base64:
        rows: list[Any] = [
            base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors
        ]
    else:
        rows = list(vectors)
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps(
        {"object": "list", "data": data, "model": model, "usage": usage},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _token(token: dict[str, Any]) -> dict[str, Any]:
    return {"token": token["token"], "logprob": token["logprob"], "bytes": token.get("bytes")}
