"""What an answer rests on, in the words of OpenAI's Responses."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from galley.schemas.grounding import Citation

_NAMED = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


def annotate(text: str, citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """Say where `text` names which of its sources: behind the mark, such as `[1]`.

    A text without any mark rests on all that the model was given: they are named at its end.
    """
    by_number = {one.number: one for one in citations}
    found = [
        _annotation(by_number[number], index)
        for number, index in _marks(text)
        if number in by_number
    ]
    return found or [_annotation(one, len(text)) for one in citations]


def _marks(text: str) -> Iterator[tuple[int, int]]:
    for mark in _NAMED.finditer(text):
        for number in mark[1].split(","):
            yield int(number), mark.end()


def _annotation(citation: Citation, index: int) -> dict[str, Any]:
    """Write a `file_citation`, and which passage of the file it is."""
    return {
        "type": "file_citation",
        "index": index,
        "file_id": citation.document_id,
        "filename": citation.document,
        "number": citation.number,
        "start": citation.start,
        "end": citation.end,
        "score": citation.score,
    }


def search_result(citation: Citation) -> dict[str, Any]:
    """Write one of a `file_search_call`'s results."""
    return {
        "file_id": citation.document_id,
        "filename": citation.document,
        "score": citation.score,
        "text": citation.text,
        "attributes": citation.metadata,
        "start": citation.start,
        "end": citation.end,
    }
