"""Galley's own documentation as a collection that everybody can search."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import structlog

from galley.core.caller import Caller
from galley.core.errors import ConflictError, GalleyError, NotFoundError
from galley.engines.base import Embedder, Floats
from galley.services.extraction import MEDIA_TYPES, clean
from galley.services.indexing import cut, embedded
from galley.services.job_kinds import derived_id
from galley.services.models import Models
from galley.stores.passages import (
    EVERYONE,
    Collection,
    Document,
    Draft,
    NewCollection,
    Passages,
    Slice,
)

log = structlog.get_logger(__name__)

COLLECTION = "galley"
DESCRIPTION = "The documentation of this server."
_MODEL = "galley/embeddings"
_POLL_S = 0.2
_AT_ONCE = 4  # passages: whoever asks for vectors meanwhile waits for no more than one of them
_PAGE = 100


def documentation_folder() -> Path:
    """Where the pages are: within the installed package, or beside it in a source checkout."""
    package = Path(__file__).parents[1]
    installed = package / "docs"
    return installed if installed.is_dir() else package.parent / "docs"


class Documentation:
    """Keeps the collection as the pages are: those that changed are indexed anew."""

    def __init__(self, passages: Passages, models: Models, folder: Path) -> None:
        self._passages = passages
        self._models = models
        self._folder = folder
        self.is_indexing = True

    async def index(self) -> None:
        """Index what is new or different, once the model is there; log what keeps it from that."""
        try:
            if (found := await self._embedder()) is not None:
                await self._index(*found)
        except (GalleyError, OSError) as error:
            log.error("documentation_not_indexed", error=str(error))
        finally:
            self.is_indexing = False

    async def _embedder(self) -> tuple[str, Embedder] | None:
        """The model that runs here; another server's is not asked for what nobody asked for."""
        caller = Caller(EVERYONE)
        while True:
            try:
                model = self._models.find(_MODEL)
            except NotFoundError:
                return None
            if model.state == "failed" or model.settings.remote:
                return None
            if model.replicas:
                loaded = self._models.embedders(self._models.plan(model.name, caller))[0]
                return loaded.name, loaded.engine
            await asyncio.sleep(_POLL_S)

    async def _index(self, model: str, engine: Embedder) -> None:
        drafts = await asyncio.to_thread(read_pages, self._folder)
        place = await self._collection(model, engine)
        known = await self._known(place)
        changed = [draft for draft in drafts if _differs(draft, known.get(draft.name))]
        for draft in changed:
            slices: AsyncGenerator[Slice] = _slices(engine, draft)
            before = known.get(draft.name)
            document_id = before.id if before else _page_id(place, draft.name)
            async with aclosing(slices):
                await self._passages.put(EVERYONE, place.id, draft, slices, document_id=document_id)
        for name in known.keys() - {draft.name for draft in drafts}:
            await self._passages.remove(EVERYONE, known[name].id)
        if changed:
            log.info("documentation_indexed", documents=len(changed))

    async def _collection(self, model: str, engine: Embedder) -> Collection:
        found = await self._passages.collection(EVERYONE, COLLECTION)
        if found is not None and found.model != model:
            await self._passages.delete_collection(EVERYONE, found.id)
            found = None
        if found is not None:
            return found
        new = NewCollection(COLLECTION, model, engine.dimensions, DESCRIPTION)
        try:
            return await self._passages.create_collection(EVERYONE, new)
        except ConflictError:  # another process on the same files was faster
            found = await self._passages.collection(EVERYONE, COLLECTION)
            if found is None:
                raise
            return found

    async def _known(self, place: Collection) -> dict[str, Document]:
        known: dict[str, Document] = {}
        after: str | None = None
        while True:
            page = await self._passages.documents(
                EVERYONE, collection_id=place.id, after=after, limit=_PAGE
            )
            known |= {document.name: document for document in page.rows}
            if not page.has_more:
                return known
            after = page.after or page.rows[-1].id


def read_pages(folder: Path) -> list[Draft]:
    """Read every page of `folder`, named by its path within it."""
    return [
        Draft(
            path.relative_to(folder).as_posix(),
            clean(path.read_text("utf-8")),
            MEDIA_TYPES["markdown"],
            bytes=path.stat().st_size,
        )
        for path in sorted(folder.rglob("*.md"))
    ]


def _page_id(place: Collection, name: str) -> str:
    """Return a page's id: the same to all servers that share the collection and start together."""
    return derived_id(int(place.created_at.timestamp() * 1000), place.id, name)


def _differs(draft: Draft, known: Document | None) -> bool:
    if known is None or known.status != "indexed":
        return True
    return known.text_hash != hashlib.sha256(draft.text.encode()).hexdigest()


async def _slices(engine: Embedder, draft: Draft) -> AsyncGenerator[Slice]:
    async def embed(texts: list[str]) -> Floats:
        return (await engine.embed(texts, truncate=True)).vectors

    async for made in embedded((await cut(engine, draft)).passages, embed, size=_AT_ONCE):
        yield made
