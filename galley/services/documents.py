"""Collections and documents: made, listed, replaced, deleted, each by its owner."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from galley.core.caller import Caller
from galley.core.errors import ConflictError, GalleyError, NotFoundError, PermissionDeniedError
from galley.db.cursors import Page
from galley.schemas.documents import CollectionCreate
from galley.services.charge import Charge
from galley.services.extraction import MEDIA_TYPES, Extractor
from galley.services.indexing import Indexer
from galley.services.metering import Meter
from galley.services.models import Models
from galley.stores.passages import (
    EVERYONE,
    Collection,
    Document,
    Draft,
    NewCollection,
    Passages,
    Slice,
    Status,
)

DEFAULT_COLLECTION = "default"
NAMELESS = "document"
MOST_COLLECTIONS = 100
"""Of one owner."""

INLINE_CHARACTERS = 60_000
"""A longer text is indexed by a job: it takes a core for more than some seconds."""


class Submit(Protocol):
    """Has documents indexed in the background."""

    async def __call__(self, caller: Caller, document_ids: Sequence[str]) -> str:
        """Make a job for documents that are queued; returns its id."""
        ...


@dataclass(frozen=True, slots=True)
class Arriving:
    """What is to be a document.

    Args:
        source: its text, or a file of its own, whose content says what it is.
        name: None keeps that of the document it replaces, and so does `metadata`.
        media_type: what its owner says it is.
        background: it is not to be indexed at once.
    """

    source: str | Path
    name: str | None = None
    media_type: str | None = None
    metadata: Mapping[str, Any] | None = None
    background: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """A document that was added, and the job that will index it, if it is not indexed yet."""

    document: Document
    job_id: str | None = None


class DocumentService:
    """Looks after what users want found.

    Args:
        submit: makes jobs, for what would keep its owner waiting.
    """

    def __init__(
        self,
        passages: Passages,
        models: Models,
        meter: Meter,
        indexer: Indexer,
        extractor: Extractor,
        submit: Submit,
    ) -> None:
        self._passages = passages
        self._models = models
        self._meter = meter
        self._indexer = indexer
        self._extractor = extractor
        self._submit = submit

    async def create_collection(self, caller: Caller, asked: CollectionCreate) -> Collection:
        """Make a collection.

        Raises:
            ConflictError: the caller has one of that name, or has too many.
            NotFoundError: no such model.
            OverloadedError: the model is still loading.
        """
        loaded = self._models.embedders(self._models.plan(asked.model, caller))[0]
        own = await self._own_collections(caller)
        if len(own) >= MOST_COLLECTIONS:
            raise ConflictError(
                f"You have {MOST_COLLECTIONS} collections, and nobody has more. Delete some, or"
                " tell documents apart by their metadata.",
                code="too_many_collections",
            )
        # Of a model on another server, the first answer is the first to tell.
        seen = await loaded.engine.embed(["Galley"])
        new = NewCollection(
            name=asked.name,
            model=loaded.name,
            dimensions=seen.vectors.shape[1],
            description=asked.description,
            metadata=asked.metadata,
        )
        return await self._passages.create_collection(caller.user_id, new)

    async def collections(
        self, caller: Caller, *, after: str | None, limit: int
    ) -> Page[Collection]:
        """List the caller's collections and everybody's."""
        return await self._passages.collections(caller.user_id, after=after, limit=limit)

    async def collection(self, caller: Caller, name: str) -> Collection:
        """Return one by name or id.

        Raises:
            NotFoundError: the caller sees none of that name.
        """
        found = await self._passages.collection(caller.user_id, name)
        if found is None:
            raise NotFoundError(
                f"There is no collection {name!r}. GET /v1/collections lists yours.",
                code="collection_not_found",
                param="collection",
            )
        return found

    async def delete_collection(self, caller: Caller, name: str) -> Collection:
        """Delete one with all that is in it; raises as `collection`, and if it is read-only."""
        found = writable(await self.collection(caller, name))
        if not await self._passages.delete_collection(caller.user_id, found.id):
            await self.collection(caller, found.id)  # somebody was faster
        return found

    async def add(self, charge: Charge, given: Arriving, collection: str | None) -> Put:
        """Add a document: found when this returns, or once a job has indexed it.

        Args:
            collection: name or id; None is the default one, which is made if need be.
        Raises:
            BadRequestError: the file cannot be read, or has no text.
            NotFoundError: there is no such collection.
            PermissionDeniedError: the collection is read-only.
            RateLimitError: the caller is over a limit.
        """
        place = await self._place(charge.caller, collection)
        return await self._put(charge, place, given, None)

    async def replace(self, charge: Charge, document_id: str, given: Arriving) -> Put:
        """Put a new version in the place of a document; the old one is found until then."""
        known = await self.document(charge.caller, document_id)
        place = writable(await self.collection(charge.caller, known.collection_id))
        given = replace(
            given,
            name=known.name if given.name is None else given.name,
            metadata=known.metadata if given.metadata is None else given.metadata,
        )
        return await self._put(charge, place, given, document_id)

    async def documents(
        self,
        caller: Caller,
        *,
        collection: str | None,
        name: str | None,
        status: Status | None,
        after: str | None,
        limit: int,
    ) -> Page[Document]:
        """List the caller's documents, or those of one collection."""
        place = None if collection is None else (await self.collection(caller, collection)).id
        return await self._passages.documents(
            caller.user_id, collection_id=place, name=name, status=status, after=after, limit=limit
        )

    async def document(self, caller: Caller, document_id: str) -> Document:
        """Return one.

        Raises:
            NotFoundError: the caller has no such document.
        """
        found = await self._passages.document(caller.user_id, document_id)
        if found is None:
            raise _no_document()
        return found

    async def draft(self, caller: Caller, document_id: str) -> Draft:
        """Return the newest version of one, with its text; raises as `document`."""
        found = await self._passages.draft(caller.user_id, document_id)
        if found is None:
            raise _no_document()
        return found

    async def remove(self, caller: Caller, document_id: str) -> None:
        """Delete one; raises as `document`, and if its collection is read-only."""
        known = await self.document(caller, document_id)
        writable(await self.collection(caller, known.collection_id))
        if not await self._passages.remove(caller.user_id, document_id):
            raise _no_document()

    async def _own_collections(self, caller: Caller) -> list[Collection]:
        page = await self._passages.collections(caller.user_id, limit=MOST_COLLECTIONS + 10)
        return [found for found in page.rows if found.owner == caller.user_id]

    async def _place(self, caller: Caller, name: str | None) -> Collection:
        if name is not None:
            return writable(await self.collection(caller, name))
        found = await self._passages.collection(caller.user_id, DEFAULT_COLLECTION)
        if found is not None:
            return found
        try:
            return await self.create_collection(caller, CollectionCreate(name=DEFAULT_COLLECTION))
        except ConflictError:  # another request was faster
            return await self.collection(caller, DEFAULT_COLLECTION)

    async def _put(
        self, charge: Charge, place: Collection, given: Arriving, document_id: str | None
    ) -> Put:
        caller = charge.caller
        draft = await self._draft(caller, given)
        later = given.background or len(draft.text) > INLINE_CHARACTERS
        if later:
            await self._indexer.admit_only(charge, place)
            kept = await self._passages.accept(
                caller.user_id, place.id, draft, document_id=document_id
            )
            try:
                job_id = await self._submit(caller, [kept.id])
            except GalleyError as error:
                await self._take_back(caller, kept, error, is_new=document_id is None)
                raise
            await self._meter.settle(charge)
            return Put(kept, job_id)
        cut = await self._indexer.cut(charge, place, draft)
        await self._indexer.admit(charge, place, cut)
        slices: AsyncGenerator[Slice] = self._indexer.slices(charge, place, cut)
        async with aclosing(slices):
            made = await self._passages.put(
                caller.user_id, place.id, draft, slices, document_id=document_id
            )
        return Put(made)

    async def _take_back(
        self, caller: Caller, kept: Document, error: GalleyError, *, is_new: bool
    ) -> None:
        """Leave nothing that waits for a job that will not come."""
        if is_new:
            await self._passages.remove(caller.user_id, kept.id)
        else:
            await self._passages.fail(caller.user_id, kept.id, error.message)

    async def _draft(self, caller: Caller, given: Arriving) -> Draft:
        name, source = given.name or NAMELESS, given.source
        if isinstance(source, str):
            size = len(source.encode())
            kind = given.media_type or MEDIA_TYPES["text"]
            found = await self._extractor.read(source, kind, owner=caller.user_id)
        else:
            size = source.stat().st_size
            found = await self._extractor.extract(
                source, owner=caller.user_id, name=name, media_type=given.media_type
            )
        return Draft(name, found.text, found.media_type, given.metadata or {}, size)


def writable(collection: Collection) -> Collection:
    """Return `collection`.

    Raises:
        PermissionDeniedError: it belongs to everybody.
    """
    if collection.owner == EVERYONE:
        raise PermissionDeniedError(
            f"The collection {collection.name!r} comes with Galley and cannot be changed.",
            code="collection_read_only",
        )
    return collection


def _no_document() -> NotFoundError:
    return NotFoundError(
        "There is no such document. GET /v1/documents lists yours.", code="document_not_found"
    )
