"""Reranking: how relevant documents are to a question, in the shape that most servers share.

Source: Jina API reference, Reranker; llama.cpp's server and vLLM answer in the same shape.
"""

from typing import Annotated

from pydantic import Field

from galley.schemas.base import Reply, Request
from galley.schemas.chat import ModelName
from galley.schemas.completions import Text

MAX_DOCUMENTS = 1000


class RerankDocument(Request):
    text: Text


class RerankRequest(Request):
    """A question, and the documents to put in order."""

    model: ModelName = Field(examples=["galley/rerank"])
    query: Text
    documents: Annotated[
        list[Text | RerankDocument], Field(min_length=1, max_length=MAX_DOCUMENTS)
    ] = Field(description="Up to 1000 texts, as they are or as `text` of an object.")
    top_n: int | None = Field(
        default=None, ge=1, le=MAX_DOCUMENTS, description="Only the best so many. Unset: all."
    )
    return_documents: bool = Field(default=False, description="Repeat each text in the answer.")

    @property
    def texts(self) -> list[str]:
        """Every document's text."""
        return [item if isinstance(item, str) else item.text for item in self.documents]


class RerankResult(Reply):
    index: int = Field(description="The document's place in the request, from 0.")
    relevance_score: float = Field(description="Higher is better; the scale is the model's own.")
    document: dict[str, str] | None = None


class RerankUsage(Reply):
    prompt_tokens: int
    total_tokens: int


class RerankReply(Reply):
    """The most relevant document comes first."""

    model: str
    results: list[RerankResult]
    usage: RerankUsage
