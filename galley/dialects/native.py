"""Galley's own routes: errors as FastAPI words them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from galley.core.errors import GalleyError, UnprocessableError
from galley.schemas.delta import Delta, Usage


def error_body(error: GalleyError, request_id: str) -> dict[str, Any]:
    """`{"detail": ...}`: a sentence, or FastAPI's list for input that fits no schema."""
    if isinstance(error, UnprocessableError):
        return {"detail": error.details}
    return {"detail": error.message}


def error_event(error: GalleyError, request_id: str) -> bytes:
    """Write `error` as the last event of a stream."""
    return b"data: " + orjson.dumps(error_body(error, request_id)) + b"\n\n"


def limit_headers(
    headers: Sequence[tuple[bytes, bytes]], now: datetime
) -> Sequence[tuple[bytes, bytes]]:
    """Limits are told as OpenAI tells them."""
    return headers


class SimpleFrames:
    """Frames of the simple chat: `data: {"delta": "..."}`, then `data: [DONE]`."""

    def frame(self, delta: Delta) -> bytes:
        """Write the text that `delta` brought."""
        return b"data: " + orjson.dumps({"delta": delta.text}) + b"\n\n" if delta.text else b""

    def last(self, usage: Usage) -> bytes:
        """Write the end of the stream."""
        return b"data: [DONE]\n\n"
