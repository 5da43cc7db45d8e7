"""What a dialect is, and which route speaks which."""

from typing import Any, Protocol

from galley.core.errors import GalleyError
from galley.dialects import native, openai

_OPENAI = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models")


class Dialect(Protocol):
    """A wire format's words for errors. The modules of this room are dialects."""

    def error_body(self, error: GalleyError) -> dict[str, Any]:
        """Write `error` as the body of an answer."""
        ...


def dialect_of_nowhere(path: str) -> Dialect:
    """Return the dialect for a `path` that is no route: under /v1, OpenAI's clients try theirs."""
    return openai if path.removeprefix("/api").startswith("/v1/") else native


def dialect_of(path: str) -> Dialect:
    """Return the dialect spoken at `path`."""
    found = path.removeprefix("/api")
    return openai if found.startswith(_OPENAI) else native
