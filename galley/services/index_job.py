"""The job `index_documents`: what waits is indexed, or what there is indexed anew."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from galley.core.caller import Caller
from galley.core.errors import GalleyError, NotFoundError, RateLimitError
from galley.schemas.documents import IndexParams
from galley.services.charge import Arrival
from galley.services.documents import writable
from galley.services.indexing import Indexer
from galley.services.job_keeper import MOST_ATTEMPTS
from galley.services.job_kinds import JobRun, derived_id
from galley.services.metering import Meter
from galley.stores.passages import Collection, Document, Passages, Slice

_PAGE = 100
_MOST_FAILURES_TOLD = 100


class IndexJob:
    """Indexes documents. Done twice, it does nothing twice: what is indexed waits no more."""

    def __init__(self, passages: Passages, indexer: Indexer, meter: Meter) -> None:
        self._passages = passages
        self._indexer = indexer
        self._meter = meter

    async def index_documents(self, run: JobRun) -> dict[str, Any]:
        """Index what `IndexParams` ask for; a document that cannot be indexed fails alone.

        Progress is in characters of text.

        Returns:
            How many documents were indexed, and why each other one was not.
        Raises:
            NotFoundError: there is no such collection.
            RateLimitError: the owner is over a limit for now; what was done stays done.
        """
        asked = IndexParams.model_validate(run.params)
        waiting = await self._waiting(run.caller, asked)
        total = sum(document.characters for document in waiting)
        done, indexed, failed = 0, 0, list[dict[str, str]]()
        for document in waiting:
            await run.progress(done, total, document.name)
            try:
                indexed += await self._index(run, document, done, total)
            except RateLimitError:
                raise
            except GalleyError as error:
                if error.status >= 500 and run.attempt < MOST_ATTEMPTS:
                    raise
                await self._passages.fail(run.caller.user_id, document.id, error.message)
                failed.append({"document_id": document.id, "reason": error.message})
            done += document.characters
        await run.progress(done, total, f"{indexed} indexed")
        return {
            "indexed": indexed,
            "failed": len(failed),
            "failures": failed[:_MOST_FAILURES_TOLD],
            "characters": total,
        }

    async def _waiting(self, caller: Caller, asked: IndexParams) -> list[Document]:
        """All documents to be indexed; those that are to be so anew are queued one by one."""
        if asked.documents is not None:
            found = [await self._passages.document(caller.user_id, i) for i in asked.documents]
            there = [document for document in found if document is not None]
        else:
            place = None
            if asked.collection is not None:
                place = writable(await self._collection(caller, asked.collection)).id
            there = await self._listed(caller, place, again=asked.again)
        return [document for document in there if asked.again or document.status == "queued"]

    async def _listed(self, caller: Caller, place: str | None, *, again: bool) -> list[Document]:
        found: list[Document] = []
        after: str | None = None
        while True:
            page = await self._passages.documents(
                caller.user_id,
                collection_id=place,
                status=None if again else "queued",
                after=after,
                limit=_PAGE,
            )
            found += page.rows
            if not page.has_more:
                return found
            after = page.after or page.rows[-1].id

    async def _collection(self, caller: Caller, name: str) -> Collection:
        found = await self._passages.collection(caller.user_id, name)
        if found is None:
            raise NotFoundError(f"There is no collection {name!r}.", code="collection_not_found")
        return found

    async def _index(self, run: JobRun, document: Document, done: int, total: int) -> bool:
        """Index one version; False when somebody else has, or the document is gone."""
        owner = run.caller.user_id
        draft = await self._passages.draft(owner, document.id)
        if draft is None:
            return False
        if document.status != "queued":
            document = await self._passages.accept(
                owner, document.collection_id, draft, document_id=document.id
            )
        place = await self._collection(run.caller, document.collection_id)

        async def note(end: int) -> None:
            await run.progress(done + end, total, document.name)

        arrival = Arrival(version_id(document), None)
        async with self._meter.hold(arrival, run.caller, "documents") as charge:
            charge.background = True  # what is put off comes again, and is booked then
            cut = await self._indexer.cut(charge, place, draft)
            await self._indexer.admit(charge, place, cut)
            slices: AsyncGenerator[Slice] = self._indexer.slices(charge, place, cut, note)
            async with aclosing(slices):
                await self._passages.index(owner, document.id, slices)
            await self._meter.settle(charge)  # where there was nothing to do any more
        return True


def version_id(document: Document) -> str:
    """Return the id under which indexing one version of a document is booked, always the same.

    It has the form of a UUIDv7, its time that of the version: ids of requests are in order of time.
    """
    made_ms = int(document.updated_at.timestamp() * 1000)
    return derived_id(made_ms, document.id, document.updated_at.isoformat(), document.text_hash)
