"""Documents and their passages, to be found by meaning and by words.

An owner has collections, a collection documents, a document a text and the passages it was cut
into. What a search sees of a document is one version of it, whole: a new one takes its place in
one step when its last passage is there. `passages_sqlite.py` keeps them in one file.
"""

from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galley.db.cursors import Page

Floats: TypeAlias = NDArray[np.float32]

EVERYONE = "*"
"""Owns what all may read and only Galley itself writes, such as its own documentation."""

Status = Literal["queued", "indexed", "failed"]
"""How far the newest version of a document got; an older one may be found until it is indexed."""

Value: TypeAlias = str | float | bool
"""What a filter compares a document's metadata with."""

Comparison = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]


@dataclass(frozen=True, slots=True)
class NewCollection:
    """A collection to be made. `model` makes the vectors of its passages."""

    name: str
    model: str
    dimensions: int
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection, and how much is in it."""

    id: str
    owner: str
    name: str
    description: str | None
    metadata: Mapping[str, Any]
    model: str
    dimensions: int
    documents: int
    passages: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Draft:
    """A version of a document before it is one: what it says, and what is said of it.

    Args:
        bytes: how large the file was that it came from.
    """

    name: str
    text: str
    media_type: str = "text/plain"
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """The newest version of a document, without its text.

    Args:
        text_hash: SHA-256 of the text, in hex.
        characters: how long the text is; offsets of passages count in them.
        passages: how many of it a search can find; of an older version until this one is indexed.
        error: why it failed.
    """

    id: str
    collection_id: str
    name: str
    media_type: str
    metadata: Mapping[str, Any]
    status: Status
    error: str | None
    text_hash: str
    characters: int
    bytes: int
    passages: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Passage:
    """`text` is what the document says from character `start` up to `end`.

    Args:
        context: what it stands under, such as a title and headings; its words are searched too.
    """

    start: int
    end: int
    text: str
    context: str = ""


@dataclass(frozen=True, slots=True)
class Slice:
    """Passages in the order of the text, with a unit vector each: one row of `vectors`."""

    passages: Sequence[Passage]
    vectors: Floats


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds for documents whose metadata has such a value under `key`; `ne`, `nin`: or none.

    Args:
        value: a list for `in` and `nin`.
    """

    key: str
    op: Comparison
    value: Value | Sequence[Value]


@dataclass(frozen=True, slots=True)
class Combine:
    """Holds where all or any of `parts` do."""

    how: Literal["and", "or"]
    parts: Sequence["Filter"]


Filter: TypeAlias = Compare | Combine


@dataclass(frozen=True, slots=True)
class Only:
    """Which documents are searched. None is any.

    Args:
        document_ids: one of these.
        name: named exactly so.
        metadata: a condition that their metadata fulfils.
    """

    document_ids: Sequence[str] | None = None
    name: str | None = None
    metadata: Filter | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A passage that was found, the document it is from, and why.

    Args:
        number: its place among the passages of the document, from 0.
        score: of the fused ranking, at most 1; 1 is the first by meaning and by words.
        dense: cosine of its vector to the question's; None when there was no vector to compare.
        bm25: by the words it shares with the question, the more the better; None without any.
        dense_rank: place by meaning, from 1; None when others were nearer.
        bm25_rank: place by words.
    """

    collection_id: str
    document_id: str
    document_name: str
    metadata: Mapping[str, Any]
    number: int
    start: int
    end: int
    text: str
    context: str
    score: float
    dense: float | None
    bm25: float | None
    dense_rank: int | None
    bm25_rank: int | None


class Passages(Protocol):
    """Keeps them, and finds them.

    Every method names the owner: what belongs to somebody else is as if it were not there.
    Reading, an owner also sees what is `EVERYONE`'s; writing, only their own.
    """

    async def create_collection(self, owner: str, new: NewCollection) -> Collection:
        """Make one.

        Raises:
            ConflictError: the owner has one of that name (`collection_exists`).
        """
        ...

    async def collections(
        self, owner: str, *, after: str | None = None, limit: int = 50
    ) -> Page[Collection]:
        """List the owner's and everyone's, in the order in which they were made.

        Raises:
            BadRequestError: `after` is not an id.
        """
        ...

    async def collection(self, owner: str, name: str) -> Collection | None:
        """Return one by its id or name: the owner's first, then everyone's."""
        ...

    async def delete_collection(self, owner: str, collection_id: str) -> bool:
        """Delete it with all that is in it; False when there is none."""
        ...

    async def put(
        self,
        owner: str,
        collection_id: str,
        draft: Draft,
        slices: AsyncIterable[Slice],
        *,
        document_id: str | None = None,
    ) -> Document:
        """Add a document, or replace one, with all its passages: seen whole or not at all.

        When `slices` ends in an error, or the task is cancelled, all is as before.

        Args:
            document_id: whom it replaces, or what a new one is to be called (an id of ours).
        Raises:
            NotFoundError: there is no such collection, or it was deleted meanwhile, or the id is
                taken by a document elsewhere.
        """
        ...

    async def accept(
        self, owner: str, collection_id: str, draft: Draft, *, document_id: str | None = None
    ) -> Document:
        """Keep a document's text, to be indexed later; what is found stays as it is until then.

        It is on disk when this returns, and `queued` until `index` or `fail`.

        Raises:
            NotFoundError: as for `put`.
        """
        ...

    async def index(self, owner: str, document_id: str, slices: AsyncIterable[Slice]) -> Document:
        """Give the version that is queued its passages, and put it in the place of the older.

        Without one that is queued, `slices` is not asked for and nothing changes.

        Raises:
            NotFoundError: there is no such document, or it was deleted meanwhile.
        """
        ...

    async def fail(self, owner: str, document_id: str, reason: str) -> None:
        """Say why the version that is queued cannot be indexed."""
        ...

    async def documents(
        self,
        owner: str,
        *,
        collection_id: str | None = None,
        name: str | None = None,
        status: Status | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Document]:
        """List documents in the order in which they came.

        Args:
            collection_id: of this one alone; None is all of the owner's own.
        Raises:
            BadRequestError: `after` is not an id.
        """
        ...

    async def document(self, owner: str, document_id: str) -> Document | None:
        """Return one."""
        ...

    async def draft(self, owner: str, document_id: str) -> Draft | None:
        """Return the newest version of a document with its text."""
        ...

    async def remove(self, owner: str, document_id: str) -> bool:
        """Delete a document and its passages; False when there is none."""
        ...

    async def search(
        self,
        owner: str,
        collection_ids: Sequence[str],
        *,
        text: str,
        vectors: Mapping[str, Floats],
        limit: int,
        only: Only | None = None,
    ) -> list[Found]:
        """Find the passages that say most of what is asked, by meaning and by words.

        Args:
            collection_ids: where; those that the owner does not see are passed over.
            vectors: the question as each collection's model sees it, by the model's name; what
                is missing is searched by words alone.
            limit: 1 to 100.
        Source: Cormack, Clarke, Buettcher 2009, Reciprocal Rank Fusion (k = 60).
        """
        ...
