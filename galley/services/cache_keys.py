"""Under which names an answer is kept: everything that changes it, and whose it is."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from galley.schemas.chat import ChatRequest, TextPart
from galley.schemas.completions import CompletionRequest
from galley.schemas.embeddings import EmbeddingRequest
from galley.services.wording import wording

# How the answer travels, and what is said of it under another name.
_LEFT_OUT = frozenset(
    {
        "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "logprobs",
        "encoding_format",
    }
)  # fmt: skip
_FORMAT = 1  # of what is kept; another one is not found
_LONGEST_QUESTION = 300  # characters; what is longer is more than a question
_NO_PROSE = frozenset("\n\r\t`{}<>;\\")

CachedRequest = ChatRequest | CompletionRequest | EmbeddingRequest
NOTHING: Mapping[str, Any] = {}


class Question(NamedTuple):
    """The last thing a user said, and the key of all that says the same in the same place."""

    text: str
    key: str


def exact_key(
    owner: str, model: str, request: CachedRequest, passed: Mapping[str, Any] = NOTHING
) -> str:
    """The key of one request.

    Args:
        owner: whose it is: what one stores, no other finds.
        model: the one that serves it, by its own name.
        request: as the model gets it, its defaults filled in.
        passed: what is sent on besides.
    """
    return _digest("exact", owner, model, _told(request) | dict(passed))


def question(
    owner: str, model: str, request: CachedRequest, passed: Mapping[str, Any] = NOTHING
) -> Question | None:
    """What may be found by its meaning; None when that is not a plain question."""
    if not isinstance(request, ChatRequest) or request.messages[-1].role != "user":
        return None
    content = request.messages[-1].content
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], TextPart):
        content = content[0].text
    if not isinstance(content, str) or not _is_prose(content):
        return None
    meant = wording(content)
    if not meant:
        return None
    told = _told(request)
    told["messages"][-1]["content"] = meant
    return Question(content, _digest("semantic", owner, model, told | dict(passed)))


def _is_prose(text: str) -> bool:
    return len(text) <= _LONGEST_QUESTION and _NO_PROSE.isdisjoint(text)


def _told(request: CachedRequest) -> dict[str, Any]:
    """What of a request changes its answer; equal where only the way of saying it differs."""
    told = request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(_LEFT_OUT))
    told["kind"] = type(request).__name__
    if isinstance(request, EmbeddingRequest):
        return told
    told["limit"] = request.limit
    told["n"] = request.n or 1
    told["logprobs"] = request.logprobs or None
    if isinstance(request, CompletionRequest) and request.logprobs == 0:
        told["logprobs"] = 0  # the chosen token's, and no others
    return told


def _digest(kind: str, owner: str, model: str, told: dict[str, Any]) -> str:
    whole = orjson.dumps([_FORMAT, kind, owner, model, told], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(whole).hexdigest()
