"""Answers from documents: what to look for, and what was found.

Source for filters: OpenAI API specification, `ComparisonFilter` and `CompoundFilter`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from galley.schemas.base import Reply, Request

MAX_PASSAGES = 50

_Key = Annotated[str, Field(min_length=1, max_length=64)]
_Text = Annotated[str, Field(max_length=512)]
_Number = Annotated[float, Field(ge=-1e15, le=1e15)]
_Scalar = bool | _Number | _Text
CollectionNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]], Field(min_length=1, max_length=16)
]


class ComparisonFilter(Request):
    type: Literal["eq", "ne", "gt", "gte", "lt", "lte"]
    key: _Key
    value: _Scalar


class MembershipFilter(Request):
    type: Literal["in", "nin"]
    key: _Key
    value: list[_Number | _Text] = Field(max_length=100)


FlatFilter = Annotated[ComparisonFilter | MembershipFilter, Field(discriminator="type")]


class InnerFilter(Request):
    """Conditions of which all or any must hold."""

    type: Literal["and", "or"]
    filters: list[FlatFilter] = Field(min_length=1, max_length=16)


class CompoundFilter(Request):
    """The same, of conditions and of such groups of them."""

    type: Literal["and", "or"]
    filters: list[
        Annotated[ComparisonFilter | MembershipFilter | InnerFilter, Field(discriminator="type")]
    ] = Field(min_length=1, max_length=16)


MetadataFilter = Annotated[
    ComparisonFilter | MembershipFilter | CompoundFilter, Field(discriminator="type")
]


class Retrieve(Request):
    """Search documents for the last message, and answer from what they say."""

    collections: CollectionNames | None = Field(
        default=None, description="Names or ids. Unset: all of yours."
    )
    limit: int = Field(default=5, ge=1, le=MAX_PASSAGES, description="Most passages.")
    filters: MetadataFilter | None = Field(
        default=None, description="What the documents' metadata must be."
    )
    min_score: float = Field(
        default=0.0, ge=0, le=1, description="Leave out passages whose fused score is lower."
    )


class GalleyOptions(Request):
    """What no other server knows."""

    retrieve: Retrieve | None = None


class Citation(Reply):
    """A passage that the model was given."""

    number: int = Field(description="What the model was told to name it by, such as [1].")
    collection_id: str
    document_id: str
    document: str = Field(description="The document's name.")
    metadata: dict[str, Any]
    start: int = Field(description="Where it begins in the document's text, in characters.")
    end: int
    score: float = Field(description="Of the fused ranking, from 0 to 1.")
    text: str


class RetrievalReceipt(Reply):
    """What a search for an answer came to."""

    found: int = Field(description="Passages that were found.")
    used: int = Field(description="Those that the model was given: for more there was no room.")
    searched_by: Literal["words", "meaning and words"]
    note: str | None = None


class Grounding(Reply):
    """What an answer rests on."""

    query: str
    retrieval: RetrievalReceipt
    citations: list[Citation]
