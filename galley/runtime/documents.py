"""Documents: where they are kept, what indexes them, and what finds them."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from galley.core.settings import Settings
from galley.db.session import Database
from galley.services.dispatch import Dispatch
from galley.services.documentation import Documentation, documentation_folder
from galley.services.documents import DocumentService, Submit
from galley.services.extraction import Extractor
from galley.services.grounding import GroundingService
from galley.services.index_job import IndexJob
from galley.services.indexing import Indexer
from galley.services.metering import Meter
from galley.services.models import Models
from galley.services.retrieval import RetrievalService
from galley.stores import passages_postgres, passages_sqlite
from galley.stores.passages import Passages
from galley.stores.passages_schema import FILE

VECTOR_BYTES = 1_000_000_000
"""Vectors that are kept in memory; of what was searched the longest ago, they are read anew."""

LEFT_ALONE_S = 3600.0
"""For so long, what nobody writes to may still be read by another server on the same folder."""


@dataclass(frozen=True, slots=True)
class Documents:
    """All that has to do with documents. `incoming` is for files that are being read."""

    passages: Passages
    service: DocumentService
    retrieval: RetrievalService
    grounding: GroundingService
    job: IndexJob
    documentation: Documentation
    incoming: Path


async def open_documents(
    settings: Settings,
    database: Database,
    models: Models,
    meter: Meter,
    dispatch: Dispatch,
    stack: AsyncExitStack,
    submit: Submit,
    *,
    is_worker: bool = False,
) -> Documents:
    """Open the store; what a crash left of uploads is deleted.

    Galley's own documentation is indexed in the background. A worker leaves both to the server.

    Args:
        submit: makes jobs of the kind `index_documents`.
    """
    passages = await _open_passages(settings, database, stack)
    incoming = settings.data_dir / "incoming"
    if not is_worker:
        # SQLite has one server: nobody else can be reading any of it.
        await asyncio.to_thread(_clear, incoming, 0.0 if database.path else LEFT_ALONE_S)
    indexer = Indexer(models, meter, dispatch)
    documentation = Documentation(passages, models, documentation_folder())
    documentation.is_indexing = settings.embedded_documents and not is_worker
    if documentation.is_indexing:
        stack.push_async_callback(_stop, asyncio.create_task(documentation.index()))
    retrieval = RetrievalService(passages, models, meter, lambda: documentation.is_indexing)
    return Documents(
        passages,
        DocumentService(passages, models, meter, indexer, Extractor(incoming), submit),
        retrieval,
        GroundingService(retrieval),
        IndexJob(passages, indexer, meter),
        documentation,
        incoming,
    )


async def _open_passages(settings: Settings, database: Database, stack: AsyncExitStack) -> Passages:
    """Keep them where the database is: in a file beside SQLite's, or in PostgreSQL's tables."""
    if database.path is None:
        return await stack.enter_async_context(passages_postgres.open_passages(database))
    file = settings.data_dir / FILE
    return await stack.enter_async_context(
        passages_sqlite.open_passages(file, memory_bytes=VECTOR_BYTES)
    )


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _clear(folder: Path, untouched_s: float) -> None:
    """Delete what nobody has written to for so long."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = time.time() - untouched_s
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # its server was done with it just now
            if path.stat().st_mtime <= before:
                path.unlink()
