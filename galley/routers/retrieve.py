"""Questions to documents."""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from galley.core.errors import OverloadedError
from galley.dialects import native
from galley.routers.front_door import Call, Endpoint
from galley.routers.parsing import parse_query
from galley.schemas.documents import RetrieveReply, RetrieveRequest
from galley.services.retrieval import Query, Results
from galley.stores.passages import Combine, Compare, Filter, Only, Value

_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


async def retrieve(call: Call) -> None:
    """Find the passages of your documents that answer a question, by meaning and by words."""
    asked = parse_query(RetrieveRequest, call.query, native)
    retrieval = call.runtime.documents.retrieval
    only = Only(asked.document or None, asked.name, _filter(asked.metadata))
    query = Query(asked.query, asked.limit, asked.collection, only)
    results = await retrieval.search(call.charge, query)
    if not results.found and retrieval.indexing() and not results.is_own:
        raise OverloadedError(
            "Galley's documentation is still being indexed, and you have no documents of your own"
            " yet. Try again in a moment.",
            code="documentation_indexing",
            retry_after=2,
        )
    body: dict[str, Any] = {"documents": [found.text for found in results.found]}
    if asked.detail:
        body["passages"] = _details(results)
        body["searched_by"] = results.searched_by
        body["indexing"] = retrieval.indexing() and not results.is_own
    await call.answer(orjson.dumps(body))


def _filter(pairs: Sequence[str]) -> Filter | None:
    """All of `key=value`; a value may be meant as a text, a number, or true and false."""
    parts: list[Filter] = []
    for pair in pairs:
        key, _, value = pair.partition("=")
        meant: list[Value] = [value]
        if value in ("true", "false"):
            meant.append(value == "true")
        elif _NUMBER.fullmatch(value):
            meant.append(float(value))
        parts.append(Combine("or", [Compare(key, "eq", each) for each in meant]))
    return Combine("and", parts) if parts else None


def _details(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "text": found.text,
            "document_id": found.document_id,
            "document_name": found.document_name,
            "collection_id": found.collection_id,
            "collection": results.collections[found.collection_id].name,
            "metadata": found.metadata,
            "number": found.number,
            "start": found.start,
            "end": found.end,
            "context": found.context,
            "score": found.score,
            "dense": found.dense,
            "bm25": found.bm25,
            "dense_rank": found.dense_rank,
            "bm25_rank": found.bm25_rank,
        }
        for found in results.found
    ]


ENDPOINTS = (
    Endpoint(
        name="retrieve",
        scope="documents",
        paths=("/v1/retrieve", "/retrieve"),
        dialect=native,
        handle=retrieve,
        request=RetrieveRequest,
        reply=RetrieveReply,
        example={"query": "How do I make a key?"},
        method="GET",
    ),
)
