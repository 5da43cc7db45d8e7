"""Passages in one SQLite file of their own: text, vectors and an index of words.

Writes go through one thread, one short transaction after another; reads have threads and
connections of their own and wait for nobody. Deleting is a mark at first; what nothing shows any
more is cleared away in between.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from queue import LifoQueue
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from galley.core.errors import NotFoundError, OverloadedError
from galley.db.cursors import Page
from galley.db.engine import BUSY_TIMEOUT_S
from galley.db.tables import utc_now
from galley.stores import passages_rows as rows
from galley.stores import passages_writing as writing
from galley.stores.passages import (
    Collection,
    Document,
    Draft,
    Floats,
    Found,
    NewCollection,
    Only,
    Slice,
    Status,
)
from galley.stores.passages_graph import Graphs
from galley.stores.passages_ranking import Question, check
from galley.stores.passages_rows import collection_numbers
from galley.stores.passages_schema import AT_ONCE, connect, prepare, transaction
from galley.stores.passages_search import search
from galley.stores.passages_tidy import give_up, tidy
from galley.stores.passages_vectors import Vectors

GRAPH_FROM = 100_000
_READERS = 3

_log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def open_passages(
    path: Path,
    *,
    memory_bytes: int,
    graph_from: int = GRAPH_FROM,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    clock: Callable[[], datetime] = utc_now,
) -> AsyncGenerator["SqlitePassages"]:
    """Open the file `path`; what a crash left unfinished in it is cleared away.

    Args:
        memory_bytes: for vectors that are kept in memory.
        graph_from: passages that a collection has when its vectors are indexed; the nearest of
            fewer are found by looking at all.
        busy_timeout_s: how long to wait for another process that is writing.
    Raises:
        SettingsError: it cannot be opened, or was made by a newer Galley.
    """
    await asyncio.to_thread(prepare, path)
    with ExitStack() as stack:
        writer = stack.enter_context(closing(connect(path, busy_timeout_s=busy_timeout_s)))
        with transaction(writer):
            give_up(writer)
        readers = [
            stack.enter_context(closing(connect(path, reading=True))) for _ in range(_READERS)
        ]
        graphs = Graphs(path.with_suffix(".graphs"), graph_from)
        graphs.keep(collection_numbers(writer))
        passages = SqlitePassages(writer, readers, Vectors(memory_bytes), graphs, clock)
        try:
            yield passages
        finally:
            await passages.aclose()


class SqlitePassages:
    """Keeps passages in a file, and the vectors of what is searched in memory."""

    def __init__(
        self,
        writer: sqlite3.Connection,
        readers: Sequence[sqlite3.Connection],
        vectors: Vectors,
        graphs: Graphs,
        clock: Callable[[], datetime],
    ) -> None:
        self.vectors = vectors
        self.graphs = graphs
        self._clock = clock
        self._writer = writer
        self._writing = ThreadPoolExecutor(1, "galley-passages-writer")
        # The last one first: it remembers the most of the file.
        self._readers: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._reading = ThreadPoolExecutor(len(readers), "galley-passages-reader")
        for connection in readers:
            self._readers.put(connection)
        self._untidy = asyncio.Event()
        self._untidy.set()
        self._tidying = asyncio.create_task(self._keep_tidy())

    async def aclose(self) -> None:
        """Let go of the file; what is not cleared away yet is so at the next start."""
        self._tidying.cancel()
        await asyncio.gather(self._tidying, return_exceptions=True)
        await asyncio.to_thread(self._writing.shutdown)
        await asyncio.to_thread(self._reading.shutdown)
        await asyncio.to_thread(self.graphs.close)

    async def create_collection(self, owner: str, new: NewCollection) -> Collection:
        await self._commit(writing.add_collection, owner, new, self._now())
        if (found := await self.collection(owner, new.name)) is None:
            raise NotFoundError("The collection was deleted.", code="collection_not_found")
        return found

    async def collections(
        self, owner: str, *, after: str | None = None, limit: int = 50
    ) -> Page[Collection]:
        return await self._read(rows.list_collections, owner, after=after, limit=limit)

    async def collection(self, owner: str, name: str) -> Collection | None:
        return await self._read(rows.find_collection, owner, name)

    async def delete_collection(self, owner: str, collection_id: str) -> bool:
        numbers = await self._commit(writing.drop_collection, owner, collection_id)
        if numbers:
            self.vectors.forget(numbers)
            left = await self._read(collection_numbers)
            await asyncio.to_thread(self.graphs.keep, left)
        self._untidy.set()
        return bool(numbers)

    async def put(
        self,
        owner: str,
        collection_id: str,
        draft: Draft,
        slices: AsyncIterable[Slice],
        *,
        document_id: str | None = None,
    ) -> Document:
        staged = await self._write(
            writing.add_version, owner, collection_id, draft, document_id=document_id
        )
        return await self._fill(staged, slices)

    async def accept(
        self, owner: str, collection_id: str, draft: Draft, *, document_id: str | None = None
    ) -> Document:
        queued = await self._commit(
            writing.queue, owner, collection_id, draft, self._now(), document_id=document_id
        )
        self._untidy.set()
        return await self._existing(owner, queued.document_id)

    async def index(self, owner: str, document_id: str, slices: AsyncIterable[Slice]) -> Document:
        staged = await self._write(writing.take_up, owner, document_id)
        if staged is None:
            return await self._existing(owner, document_id)
        return await self._fill(staged, slices)

    async def fail(self, owner: str, document_id: str, reason: str) -> None:
        await self._commit(writing.fail, owner, document_id, reason, self._now())

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
        return await self._read(
            rows.list_documents, owner, collection_id=collection_id, name=name, status=status,
            after=after, limit=limit,
        )  # fmt: skip

    async def document(self, owner: str, document_id: str) -> Document | None:
        return await self._read(rows.find_document, owner, document_id)

    async def draft(self, owner: str, document_id: str) -> Draft | None:
        return await self._read(rows.find_draft, owner, document_id)

    async def remove(self, owner: str, document_id: str) -> bool:
        found = await self._commit(writing.drop_document, owner, document_id)
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
        return await self._read(search, self.vectors, self.graphs, question)

    async def tidied(self) -> None:
        """Wait until what was deleted is cleared away."""
        while await self._write(tidy):
            pass

    async def _fill(self, staged: writing.Staged, slices: AsyncIterable[Slice]) -> Document:
        """Write the passages of a version, and show it; give it up if that fails."""
        count = 0
        try:
            async for piece in slices:
                check(piece, staged.dimensions, count)
                for at in range(0, len(piece.passages), AT_ONCE):
                    part = slice(at, at + AT_ONCE)
                    passages, vectors = piece.passages[part], piece.vectors[part]
                    await self._write(writing.stage, staged, count, passages, vectors)
                    count += len(passages)
            await self._commit(writing.show, staged, count, self._now())
        except BaseException:
            # Not awaited, as nothing is by a task that is cancelled. It comes after all that was
            # written, and leaves alone what was shown at the last moment.
            self._submit(give_up, staged.version)
            raise
        finally:
            self._untidy.set()
        return await self._existing(staged.owner, staged.document_id)

    async def _existing(self, owner: str, document_id: str) -> Document:
        if (found := await self.document(owner, document_id)) is None:
            raise NotFoundError("There is no such document.", code="document_not_found")
        return found

    async def _keep_tidy(self) -> None:
        """Clear away what nothing shows any more, a little at a time."""
        while True:
            await self._untidy.wait()
            self._untidy.clear()
            with suppress(OverloadedError):  # it is in the log; the next deletion tries again
                await self.tidied()

    async def _read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        def run() -> T:
            connection = self._readers.get()
            try:
                with _available():
                    return query(connection, *args, **kwargs)
            finally:
                self._readers.put(connection)

        return await asyncio.get_running_loop().run_in_executor(self._reading, run)

    async def _commit(
        self,
        change: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Change the file in one transaction that is on disk when this returns."""
        return await asyncio.wrap_future(self._submit(change, *args, **kwargs))

    async def _write(
        self,
        change: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Change the file in one transaction that may be lost if the machine loses its power."""
        run = self._in_transaction(False, change, *args, **kwargs)
        return await asyncio.wrap_future(self._writing.submit(run))

    def _submit(
        self,
        change: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[T]:
        return self._writing.submit(self._in_transaction(True, change, *args, **kwargs))

    def _in_transaction(
        self,
        durable: bool,
        change: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Callable[[], T]:
        def run() -> T:
            with _available(), transaction(self._writer, durable=durable):
                return change(self._writer, *args, **kwargs)

        return run

    def _now(self) -> str:
        return self._clock().isoformat()


@contextmanager
def _available() -> Generator[None]:
    """Say it in the words of a route when the file is locked, or the disk full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        _log.exception("passages_unavailable")
        raise OverloadedError(
            "The server's documents cannot be reached. Try again in a moment.",
            code="database_unavailable",
            retry_after=1,
        ) from error
