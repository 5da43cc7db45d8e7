"""How batches are told: OpenAI's with a file of answers and one of errors, Anthropic's in one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from galley.db.work_tables import Batch
from galley.services.batch_lines import Question
from galley.services.side_door import Answered

Ended = Literal["failed", "completed", "expired", "cancelled"]
TellLeft = Callable[[Question, str, str], bytes]
"""Writes of a line that nobody asked, given the id it would have had, and why that is."""


class Part(NamedTuple):
    """A file that comes of a batch.

    Args:
        good: whether it has the lines that were answered, or those that failed; None has all.
    """

    name: str
    good: bool | None


@dataclass(frozen=True, slots=True)
class Shape:
    """How a batch is told.

    Args:
        prefix: how its id begins.
        endpoints: what its lines may ask.
        output: its first file.
        errors: its second one, whose lines count as failed.
        answered: writes of a line what it was answered, given the request's id.
        left: how lines are told that were left, by how it ended; otherwise they are not.
    """

    prefix: str
    endpoints: frozenset[str]
    output: Part
    errors: Part | None
    answered: Callable[[Question, str, Answered], bytes]
    left: Mapping[Ended, TellLeft]

    def id_of(self, batch: Batch) -> str:
        """Write a batch's id as the API has it."""
        return f"{self.prefix}{batch.id.replace('-', '')}"


def _openai(question: Question, request_id: str, response: Any, error: Any) -> bytes:
    """Source: OpenAI API specification, `BatchRequestOutput`."""
    return orjson.dumps(
        {
            "id": f"batch_req_{request_id.replace('-', '')}",
            "custom_id": question.custom_id,
            "response": response,
            "error": error,
        }
    )


def _openai_answered(question: Question, request_id: str, answered: Answered) -> bytes:
    response = {
        "status_code": answered.status,
        "request_id": request_id,
        "body": orjson.Fragment(answered.body),
    }
    return _openai(question, request_id, response, None)


def _openai_expired(question: Question, request_id: str, _: str) -> bytes:
    error = {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }
    return _openai(question, request_id, None, error)


def _anthropic(question: Question, kind: str, **more: Any) -> bytes:
    """Source: Anthropic API reference, `MessageBatchIndividualResponse`."""
    return orjson.dumps({"custom_id": question.custom_id, "result": {"type": kind, **more}})


def _anthropic_answered(question: Question, _: str, answered: Answered) -> bytes:
    body = orjson.Fragment(answered.body)
    if answered.status == 200:
        return _anthropic(question, "succeeded", message=body)
    return _anthropic(question, "errored", error=body)


def _anthropic_failed(question: Question, request_id: str, why: str) -> bytes:
    error = {"type": "api_error", "message": why}
    told = {"type": "error", "error": error, "request_id": request_id}
    return _anthropic(question, "errored", error=told)


OPENAI = Shape(
    "batch_",
    frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}),
    Part("output", good=True),
    Part("error", good=False),
    _openai_answered,
    {"expired": _openai_expired},
)
ANTHROPIC = Shape(
    "msgbatch_",
    frozenset({"/v1/messages"}),
    Part("results", good=None),
    None,
    _anthropic_answered,
    {
        "expired": lambda question, _id, _why: _anthropic(question, "expired"),
        "cancelled": lambda question, _id, _why: _anthropic(question, "canceled"),
        "failed": _anthropic_failed,
    },
)


def shape_of(batch: Batch) -> Shape:
    """Return how `batch` is told."""
    return ANTHROPIC if batch.endpoint in ANTHROPIC.endpoints else OPENAI
