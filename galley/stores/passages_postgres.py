"""Passages in PostgreSQL with pgvector, shared by all servers and workers.

A version of a document is written in transactions of some passages each, which nothing shows until
the last one says so. What is deleted is marked at first; whichever server comes by clears it away.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from galley.core.errors import OverloadedError
from galley.db.cursors import Page
from galley.db.session import Database, is_unavailable
from galley.db.tables import utc_now
from galley.stores import passages_postgres_rows as rows
from galley.stores import passages_postgres_writing as writing
from galley.stores.passages import (
    Collection,
    Document,
    Draft,
    Floats,
    Found,
    NewCollection,
    Only,
    Passage,
    Slice,
    Status,
)
from galley.stores.passages_drafts import Staged, no_collection, no_document
from galley.stores.passages_ids import NUMBER_BITS
from galley.stores.passages_postgres_search import search
from galley.stores.passages_postgres_tidy import give_up, give_up_silent, tidy
from galley.stores.passages_postgres_words import Stemmer, index, length_of
from galley.stores.passages_ranking import Question, check
from galley.stores.passages_terms import split

GRAPH_FROM = 5_000
"""Passages of a collection; all of fewer are looked at in some 10 ms."""

AT_ONCE = 128
"""Passages that one transaction adds."""

_LOOK_EVERY_S = 600.0  # for what servers that died left

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_passages(
    database: Database, *, graph_from: int = GRAPH_FROM, clock: Callable[[], datetime] = utc_now
) -> AsyncGenerator["PostgresPassages"]:
    """Open the passages in `database`, which is PostgreSQL at the newest schema.

    Args:
        graph_from: passages that a collection has when the index of vectors is asked; the nearest
            of fewer are found by looking at all.
    """
    passages = PostgresPassages(database, graph_from, clock)
    try:
        yield passages
    finally:
        await passages.aclose()


class PostgresPassages:
    """Keeps passages in tables; nothing of them is kept in this process but stems of words."""

    def __init__(self, database: Database, graph_from: int, clock: Callable[[], datetime]) -> None:
        self._engine = database.engine
        # All queries of a search see the same moment.
        self._steady = database.engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._graph_from = graph_from
        self._now = clock
        self._stemmer = Stemmer()
        self._giving_up: set[asyncio.Task[None]] = set()
        self._untidy = asyncio.Event()
        self._untidy.set()
        self._tidying = asyncio.create_task(self._keep_tidy())

    async def aclose(self) -> None:
        """Stop; what is not cleared away yet is left to others, or to the next start."""
        self._tidying.cancel()
        await asyncio.gather(self._tidying, *self._giving_up, return_exceptions=True)

    async def create_collection(self, owner: str, new: NewCollection) -> Collection:
        async with self._transaction() as connection:
            await writing.add_collection(connection, owner, new, self._now())
        if (found := await self.collection(owner, new.name)) is None:
            raise no_collection()
        return found

    async def collections(
        self, owner: str, *, after: str | None = None, limit: int = 50
    ) -> Page[Collection]:
        async with self._transaction() as connection:
            return await rows.list_collections(connection, owner, after=after, limit=limit)

    async def collection(self, owner: str, name: str) -> Collection | None:
        async with self._transaction() as connection:
            return await rows.find_collection(connection, owner, name)

    async def delete_collection(self, owner: str, collection_id: str) -> bool:
        async with self._transaction() as connection:
            found = await writing.drop_collection(connection, owner, collection_id)
        self._untidy.set()
        return found

    async def put(
        self,
        owner: str,
        collection_id: str,
        draft: Draft,
        slices: AsyncIterable[Slice],
        *,
        document_id: str | None = None,
    ) -> Document:
        async with self._transaction() as connection:
            staged = await writing.add_version(
                connection, owner, collection_id, draft, self._now(), document_id=document_id
            )
        return await self._fill(staged, slices)

    async def accept(
        self, owner: str, collection_id: str, draft: Draft, *, document_id: str | None = None
    ) -> Document:
        async with self._transaction() as connection:
            queued = await writing.queue(
                connection, owner, collection_id, draft, self._now(), document_id=document_id
            )
        self._untidy.set()
        return await self._existing(owner, queued.document_id)

    async def index(self, owner: str, document_id: str, slices: AsyncIterable[Slice]) -> Document:
        async with self._transaction() as connection:
            staged = await writing.take_up(connection, owner, document_id, self._now())
        if staged is None:
            return await self._existing(owner, document_id)
        return await self._fill(staged, slices)

    async def fail(self, owner: str, document_id: str, reason: str) -> None:
        async with self._transaction() as connection:
            await writing.fail(connection, owner, document_id, reason, self._now())

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
        async with self._transaction() as connection:
            return await rows.list_documents(
                connection, owner, collection_id=collection_id, name=name, status=status,
                after=after, limit=limit,
            )  # fmt: skip

    async def document(self, owner: str, document_id: str) -> Document | None:
        async with self._transaction() as connection:
            return await rows.find_document(connection, owner, document_id)

    async def draft(self, owner: str, document_id: str) -> Draft | None:
        async with self._transaction() as connection:
            return await rows.find_draft(connection, owner, document_id)

    async def remove(self, owner: str, document_id: str) -> bool:
        async with self._transaction() as connection:
            found = await writing.drop_document(connection, owner, document_id)
        self._untidy.set()
        return found

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
        question = Question(owner, collection_ids, text, vectors, limit, only)
        async with self._transaction(self._steady) as connection:
            return await search(connection, self._stemmer, question, graph_from=self._graph_from)

    async def tidied(self) -> None:
        """Wait until what was deleted is cleared away."""
        await asyncio.gather(*self._giving_up, return_exceptions=True)
        async with self._transaction() as connection:
            await give_up_silent(connection, self._now())
        left = True
        while left:
            async with self._transaction() as connection:
                left = await tidy(connection)

    async def _fill(self, staged: Staged, slices: AsyncIterable[Slice]) -> Document:
        """Write the passages of a version, and show it; give it up if that fails."""
        count = words = 0
        try:
            async for piece in slices:
                check(piece, staged.dimensions, count)
                for at in range(0, len(piece.passages), AT_ONCE):
                    part = slice(at, at + AT_ONCE)
                    passages, vectors = piece.passages[part], piece.vectors[part]
                    words += await self._stage(staged, count, passages, vectors)
                    count += len(passages)
            async with self._transaction() as connection:
                await writing.show(connection, staged, count, words, self._now())
        except BaseException:
            # Not awaited, as nothing is by a task that is cancelled. It leaves alone what was
            # shown at the last moment.
            task = asyncio.create_task(self._give_up(staged.version))
            self._giving_up.add(task)
            task.add_done_callback(self._giving_up.discard)
            raise
        self._untidy.set()
        return await self._existing(staged.owner, staged.document_id)

    async def _stage(
        self, staged: Staged, first: int, passages: Sequence[Passage], vectors: Floats
    ) -> int:
        """Write some passages; returns how many words they have."""
        texts = await asyncio.to_thread(_words, passages)
        begin = (staged.version << NUMBER_BITS) + first
        async with self._transaction() as connection:
            stems = await self._stemmer.stems(connection, {w for words in texts for w in words})
            found = await asyncio.to_thread(index, begin, texts, stems)
            await writing.stage(connection, staged, first, passages, vectors, found, self._now())
        return sum(map(length_of, texts))

    async def _give_up(self, version: int) -> None:
        try:
            async with self._transaction() as connection:
                await give_up(connection, version)
        except OverloadedError:  # within the hour it is taken for the leftover of a crash
            _log.warning("version_not_given_up", version=version)
        self._untidy.set()

    @asynccontextmanager
    async def _transaction(
        self, engine: AsyncEngine | None = None
    ) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction; say it in the words of a route when the database is out of reach."""
        try:
            async with (engine or self._engine).begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            if not is_unavailable(error):
                raise
            _log.exception("passages_unavailable")
            raise OverloadedError(
                "The server's documents cannot be reached. Try again in a moment.",
                code="database_unavailable",
                retry_after=1,
            ) from error

    async def _existing(self, owner: str, document_id: str) -> Document:
        if (found := await self.document(owner, document_id)) is None:
            raise no_document()
        return found

    async def _keep_tidy(self) -> None:
        """Clear away what nothing shows any more, of this server and of those that died."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._untidy.wait()
            self._untidy.clear()
            try:
                await self.tidied()
            except OverloadedError:
                continue  # it is in the log; the next look tries again
            except SQLAlchemyError as error:
                _log.warning("passages_not_tidied", error=str(error))


def _words(passages: Sequence[Passage]) -> list[list[str]]:
    return [split(f"{passage.context} {passage.text}") for passage in passages]
