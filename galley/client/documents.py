"""What is sent about documents, and how the answers are read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack
from urllib.parse import quote, urlencode

import orjson

from galley.client.calls import Call, reader
from galley.schemas.documents import (
    CollectionList,
    CollectionReply,
    DocumentList,
    DocumentReply,
    DocumentWithText,
    Removed,
    RetrieveReply,
)

Source = str | Path
"""A text, or the path of a file: text, Markdown, HTML, PDF or DOCX."""


class DocumentOptions(TypedDict, total=False):
    """What is said of a document. `background`: a job indexes it, and nobody waits."""

    name: str
    metadata: Mapping[str, str | float | bool]
    background: bool


class SearchOptions(TypedDict, total=False):
    """Where to look, and for how much; `metadata` are pairs such as `year=2026`."""

    limit: int
    collection: Sequence[str]
    document: Sequence[str]
    name: str
    metadata: Sequence[str]


class ListOptions(TypedDict, total=False):
    """Which documents to list; `after` is the last id of the page before."""

    collection: str
    name: str
    status: str
    after: str
    limit: int


def retrieve(query: str, **options: Unpack[SearchOptions]) -> Call[RetrieveReply]:
    """The passages that answer a question, the best first, with where they are from."""
    asked: dict[str, Any] = {"query": query, "detail": "true", **options}
    return Call("GET", f"/v1/retrieve?{urlencode(asked, doseq=True)}", reader(RetrieveReply))


def add_document(
    source: Source, collection: str | None, **options: Unpack[DocumentOptions]
) -> Call[DocumentReply]:
    """A new document. Reads the file, if it is one."""
    extra = {} if collection is None else {"collection": collection}
    return _written("POST", "/v1/documents", source, {**options, **extra})


def replace_document(
    document_id: str, source: Source, **options: Unpack[DocumentOptions]
) -> Call[DocumentReply]:
    """A new version of a document. Reads the file, if it is one."""
    return _written("PUT", f"/v1/documents/{quote(document_id, safe='')}", source, dict(options))


def documents(**options: Unpack[ListOptions]) -> Call[DocumentList]:
    """A page of one's documents."""
    return Call("GET", f"/v1/documents?{urlencode(options)}", reader(DocumentList))


def document(document_id: str) -> Call[DocumentWithText]:
    """A document with its text."""
    return Call("GET", f"/v1/documents/{quote(document_id, safe='')}", reader(DocumentWithText))


def delete_document(document_id: str) -> Call[Removed]:
    """Delete a document."""
    return Call("DELETE", f"/v1/documents/{quote(document_id, safe='')}", reader(Removed))


def collections() -> Call[list[CollectionReply]]:
    """Every collection that one can search."""
    read = reader(CollectionList)
    return Call("GET", "/v1/collections?limit=1000", lambda body: read(body).data)


def create_collection(name: str, description: str | None) -> Call[CollectionReply]:
    """A new collection."""
    body = orjson.dumps({"name": name, "description": description})
    return Call("POST", "/v1/collections", reader(CollectionReply), body)


def delete_collection(name: str) -> Call[Removed]:
    """Delete a collection, by its name or id, with all that is in it."""
    return Call("DELETE", f"/v1/collections/{quote(name, safe='')}", reader(Removed))


def _written(method: str, path: str, source: Source, said: dict[str, Any]) -> Call[DocumentReply]:
    if isinstance(source, str):
        body = orjson.dumps({"text": source, **said})
        return Call(method, path, reader(DocumentReply), body)
    fields = {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in {"name": source.name, **said}.items()
    }
    form = {"data": fields, "files": {"file": (source.name, source.read_bytes())}}
    return Call(method, path, reader(DocumentReply), form=form)
