"""Adding documents: at once, or by a job that may not come."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from galley.core.caller import Caller
from galley.core.errors import ConflictError, RateLimitError
from galley.db.tables import new_id
from galley.schemas.documents import CollectionCreate
from galley.services.charge import Arrival
from galley.services.dispatch import Dispatch
from galley.services.documents import (
    INLINE_CHARACTERS,
    MOST_COLLECTIONS,
    Arriving,
    DocumentService,
)
from galley.services.extraction import Extractor
from galley.services.indexing import Indexer, title_of
from tests.services.shelf import Run, Shelf, open_shelf

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shelf(tmp_path: Path, models_dir: Path) -> AsyncIterator[Shelf]:
    async with open_shelf(tmp_path, models_dir) as opened:
        yield opened


@pytest.fixture
def full(shelf: Shelf) -> DocumentService:
    """The same documents, where no job is taken any more."""

    async def submit(caller: Caller, document_ids: Sequence[str]) -> str:
        raise RateLimitError("Too many jobs wait.", code="rate_limit_exceeded")

    runtime = shelf.runtime
    return DocumentService(
        shelf.documents.passages,
        runtime.models,
        runtime.meter,
        Indexer(runtime.models, runtime.meter, Dispatch()),
        Extractor(shelf.folder),
        submit,
    )


async def names(shelf: Shelf, status: str | None = None) -> list[str]:
    page = await shelf.documents.passages.documents(shelf.owner.user_id)
    return [document.name for document in page.rows if status in (None, document.status)]


async def test_a_large_document_is_left_to_a_job(shelf: Shelf) -> None:
    text = "The moon pulls the sea. " * (INLINE_CHARACTERS // 20)

    put = await shelf.add(text.encode(), "large.txt", background=False)

    assert put.job_id == "job"
    assert put.document.status == "queued"
    assert shelf.submitted == [[put.document.id]]


async def test_a_small_document_is_there_at_once(shelf: Shelf) -> None:
    put = await shelf.add(b"The moon pulls the sea.", "small.txt", background=False)

    assert put.job_id is None
    assert put.document.status == "indexed"
    assert shelf.submitted == []


async def test_nothing_waits_for_a_job_that_was_refused(
    shelf: Shelf, full: DocumentService
) -> None:
    meter = shelf.runtime.meter
    given = Arriving("The moon pulls the sea.", "a.txt", background=True)

    with pytest.raises(RateLimitError):
        async with meter.hold(Arrival(new_id(), None), shelf.owner, "documents") as charge:
            await full.add(charge, given, None)

    assert await names(shelf) == []


async def test_a_version_whose_job_was_refused_leaves_the_one_before(
    shelf: Shelf, full: DocumentService
) -> None:
    known = (await shelf.add(b"The moon pulls the sea.", "a.txt", background=False)).document
    meter = shelf.runtime.meter
    given = Arriving("Nothing does.", background=True)

    with pytest.raises(RateLimitError):
        async with meter.hold(Arrival(new_id(), None), shelf.owner, "documents") as charge:
            await full.replace(charge, known.id, given)

    assert await names(shelf, "queued") == []
    assert (await shelf.documents.job.index_documents(Run(shelf.owner)))["indexed"] == 0


async def test_there_is_an_end_to_collections(shelf: Shelf) -> None:
    service = shelf.documents.service
    for n in range(MOST_COLLECTIONS):
        await service.create_collection(shelf.owner, CollectionCreate(name=str(n)))

    with pytest.raises(ConflictError):
        await service.create_collection(shelf.owner, CollectionCreate(name="one more"))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("decisions/0001-llama-in-a-child-process.md", "llama in a child process"),
        ("Staff handbook.docx", "Staff handbook"),
        ("2026.txt", "2026"),
        ("notes", "notes"),
    ],
)
def test_a_title_is_made_of_a_name(name: str, title: str) -> None:
    assert title_of(name) == title
