"""Collections, documents, and what is found in them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from galley.schemas.base import PLAIN, Reply, Request

MOST_FOUND = 100
LONGEST_QUERY = 4_000

CollectionName = Annotated[str, Field(min_length=1, max_length=100, pattern=PLAIN)]
DocumentName = Annotated[str, Field(min_length=1, max_length=200, pattern=PLAIN)]
MediaType = Literal["text/plain", "text/markdown", "text/html"]
Value = (
    Annotated[str, Field(max_length=512, pattern=r"^[^\x00]*$")]
    | bool
    | Annotated[int, Field(ge=-(10**15), le=10**15)]
    | Annotated[float, Field(ge=-1e15, le=1e15)]
)
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64, pattern=PLAIN)], Value],
    Field(max_length=16),
]
"""What an owner notes of something; searches can be narrowed by it."""


def _not_blank(query: str) -> str:
    if not query.strip():
        raise ValueError("it is blank")
    return query


class CollectionCreate(Request):
    name: CollectionName
    description: str | None = Field(default=None, max_length=1_000, pattern=r"^[^\x00]*$")
    metadata: Metadata = Field(default_factory=dict[str, Any])
    model: str = Field(
        default="galley/embeddings",
        min_length=1,
        max_length=128,
        description="What makes the vectors of its passages, and of questions.",
    )


class CollectionReply(Reply):
    id: str
    object: Literal["collection"] = "collection"
    name: str
    description: str | None
    metadata: dict[str, Any]
    model: str
    dimensions: int
    documents: int
    passages: int = Field(description="Parts of documents that a search can find.")
    read_only: bool = Field(description="It belongs to everybody, and only Galley writes it.")
    created_at: datetime


class CollectionList(Reply):
    object: Literal["list"] = "list"
    data: list[CollectionReply]
    has_more: bool


class Written(Request):
    """What is said of a document, however its text comes."""

    name: DocumentName | None = Field(default=None, description="A label, and never a path.")
    metadata: Metadata | None = None
    background: bool = Field(
        default=False, description="Keep it, and index it by a job; large ones always are."
    )


class DocumentReplace(Written):
    text: str = Field(min_length=1, max_length=10_000_000)
    media_type: MediaType = "text/plain"


class DocumentCreate(DocumentReplace):
    collection: CollectionName | None = Field(
        default=None, description="Name or id; null is `default`, which is made when needed."
    )


class UploadReplace(Written):
    media_type: str | None = Field(
        default=None, max_length=200, description="A hint; the content decides."
    )


class UploadCreate(UploadReplace):
    collection: CollectionName | None = None


class DocumentReply(Reply):
    """A document; what a search finds of it is its last version that was indexed."""

    id: str
    object: Literal["document"] = "document"
    collection: str = Field(description="Its collection's id.")
    name: str
    media_type: str
    metadata: dict[str, Any]
    status: Literal["queued", "indexed", "failed"]
    error: str | None
    characters: int
    bytes: int
    passages: int
    created_at: datetime
    updated_at: datetime
    job_id: str | None = Field(default=None, description="What indexes it, where a job was made.")


class DocumentWithText(DocumentReply):
    text: str = Field(description="As it was extracted: offsets of passages count in it.")


class DocumentList(Reply):
    object: Literal["list"] = "list"
    data: list[DocumentReply]
    has_more: bool


class Removed(Reply):
    id: str
    object: Literal["collection.deleted", "document.deleted"]
    deleted: Literal[True] = True


class RetrieveRequest(Request):
    query: Annotated[str, AfterValidator(_not_blank)] = Field(
        min_length=1, max_length=LONGEST_QUERY, description="What is asked, in plain words."
    )
    limit: int = Field(default=5, ge=1, le=MOST_FOUND, description="How many passages.")
    collection: list[CollectionName] = Field(
        default_factory=list[str],
        max_length=20,
        description="Names or ids; none is all of yours, or Galley's documentation without any.",
    )
    document: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default_factory=list[str],
        max_length=100,
        description="Ids of the only documents to search.",
    )
    name: DocumentName | None = Field(default=None, description="Only documents named so.")
    metadata: list[
        Annotated[str, Field(min_length=3, max_length=600, pattern=r"^[^=\x00]+=[^\x00]*$")]
    ] = Field(
        default_factory=list[str],
        max_length=16,
        description="`key=value`: only documents of whose metadata that holds.",
    )
    detail: bool = Field(default=False, description="Scores, offsets and where they are from.")


class PassageReply(Reply):
    """A passage that was found: `text` is what the document says from `start` up to `end`."""

    text: str
    document_id: str
    document_name: str
    collection_id: str
    collection: str = Field(description="The collection's name.")
    metadata: dict[str, Any]
    number: int = Field(description="Its place in the document, from 0.")
    start: int = Field(description="In characters of the document's text.")
    end: int
    context: str = Field(description="The headings that it stands under.")
    score: float = Field(description="Of the fused ranking, at most 1.")
    dense: float | None = Field(description="Cosine to the question.")
    bm25: float | None = Field(description="By shared words, the more the better.")
    dense_rank: int | None
    bm25_rank: int | None


class RetrieveReply(Reply):
    """Source: section 2 of the design: `documents` alone, unless `detail` is asked for."""

    documents: list[str]
    passages: list[PassageReply] | None = Field(default=None, description="With `detail`.")
    searched_by: Literal["words", "meaning and words"] | None = Field(
        default=None, description="With `detail`: words alone while the model loads."
    )
    indexing: bool | None = Field(
        default=None, description="With `detail`: Galley's documentation is not all there yet."
    )


class IndexParams(Request):
    """Params of the job `index_documents`; without any, whatever of yours waits is indexed."""

    documents: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None, min_length=1, max_length=100, description="Ids; null is all."
    )
    collection: CollectionName | None = Field(default=None, description="Only of this one.")
    again: bool = Field(
        default=False,
        description="Index anew what is indexed already; it can be found all the while.",
    )
