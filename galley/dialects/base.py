"""What a dialect is, and which route speaks which."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

from galley.core.errors import GalleyError
from galley.dialects import anthropic, native, openai

Headers = Sequence[tuple[bytes, bytes]]

_ANTHROPIC = "/v1/messages"
_OPENAI = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/rerank",
    "/v1/responses", "/v1/moderations", "/v1/files", "/v1/batches",
)  # fmt: skip


class Dialect(Protocol):
    """A wire format's words for errors and limits: `native`, `openai` or `anthropic`."""

    def error_body(self, error: GalleyError, request_id: str) -> dict[str, Any]:
        """Write `error` as the body of an answer."""
        ...

    def error_event(self, error: GalleyError, request_id: str) -> bytes:
        """Write `error` as the last event of a stream."""
        ...

    def limit_headers(self, headers: Headers, now: datetime) -> Headers:
        """Say how the caller's limits stand, given that in `x-ratelimit-...` headers."""
        ...


def dialect_of_nowhere(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Dialect:
    """Return the dialect for a `path` that is no route: under /v1, SDKs try their own."""
    found = path.removeprefix("/api")
    if not found.startswith("/v1/"):
        return native
    return anthropic if found.startswith(_ANTHROPIC) or _speaks_anthropic(headers) else openai


def dialect_of(path: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> Dialect:
    """Return the dialect spoken at `path`; of models, to whom sends `headers`."""
    found = path.removeprefix("/api")
    if found.startswith(_ANTHROPIC):
        return anthropic
    if not found.startswith(_OPENAI):
        return native
    return anthropic if found.startswith("/v1/models") and _speaks_anthropic(headers) else openai


def _speaks_anthropic(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"anthropic-version" for name, _ in headers)
