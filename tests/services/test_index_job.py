"""The job that indexes documents, run by hand on a real model."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from galley.core.caller import Caller
from galley.core.errors import NotFoundError, RateLimitError
from galley.core.limits import Limits
from galley.db.tables import ApiRequest, new_id
from galley.services.index_job import version_id
from galley.services.retrieval import Query
from tests.services.shelf import Run, Shelf, open_shelf

pytestmark = pytest.mark.anyio

TIDES = b"# Tides\n\nThe moon pulls the sea, and twice a day the water rises."
BREAD = b"# Bread\n\nFlour, water and salt make a dough that has to rest overnight."


@pytest.fixture
async def shelf(tmp_path: Path, models_dir: Path) -> AsyncIterator[Shelf]:
    async with open_shelf(tmp_path, models_dir) as opened:
        yield opened


async def found(shelf: Shelf, text: str) -> list[str]:
    results = await shelf.documents.retrieval.find(shelf.owner, Query(text))
    return [passage.document_name for passage in results.found]


async def booked(shelf: Shelf) -> dict[str, ApiRequest]:
    async with shelf.runtime.database.sessions() as session:
        rows = await session.scalars(select(ApiRequest).where(ApiRequest.units > 0))
        return {row.request_id: row for row in rows}


async def test_what_waits_is_found_once_the_job_is_done(shelf: Shelf) -> None:
    puts = [await shelf.add(TIDES, "tides.md"), await shelf.add(BREAD, "bread.md")]

    before = await found(shelf, "Why does the water rise?")
    result = await shelf.documents.job.index_documents(run := Run(shelf.owner))

    assert before == []
    assert {put.document.status for put in puts} == {"queued"}
    assert shelf.submitted == [[put.document.id] for put in puts]
    assert result == {
        "indexed": 2, "failed": 0, "failures": [], "characters": len(TIDES) + len(BREAD),
    }  # fmt: skip
    assert (await found(shelf, "Why does the water rise?"))[0] == "tides.md"
    dones = [done for done, _, _ in run.told]
    assert dones == sorted(dones)
    assert dones[0] == 0
    assert dones[-1] == run.told[-1][1] == len(TIDES) + len(BREAD)
    assert {message for _, _, message in run.told} >= {"tides.md", "bread.md"}


async def test_each_document_is_booked_once_however_often_the_job_runs(shelf: Shelf) -> None:
    put = await shelf.add(TIDES, "tides.md")
    await shelf.documents.job.index_documents(Run(shelf.owner))

    again = await shelf.documents.job.index_documents(Run(shelf.owner, attempt=2))

    assert again["indexed"] == 0
    rows = await booked(shelf)
    assert list(rows) == [version_id(put.document)]
    (row,) = rows.values()
    assert (row.endpoint, row.state, row.units) == ("documents", "completed", 1)
    assert row.prompt_tokens > 10


async def test_what_a_limit_puts_off_is_booked_when_it_is_done(shelf: Shelf) -> None:
    await shelf.add(TIDES, "tides.md")
    later = await shelf.add(BREAD, "bread.md")
    limit = Limits(requests_per_minute=1).rules(f"user:{shelf.owner.user_id}")

    with pytest.raises(RateLimitError):
        await shelf.documents.job.index_documents(Run(replace(shelf.owner, rules=limit)))
    await shelf.documents.job.index_documents(Run(shelf.owner, attempt=2))

    row = (await booked(shelf))[version_id(later.document)]
    assert (row.state, row.units) == ("completed", 1)


async def test_a_job_that_was_stopped_goes_on_where_it_was(shelf: Shelf) -> None:
    await shelf.add(TIDES, "tides.md")
    await shelf.add(BREAD, "bread.md")

    class StoppedRun(Run):
        async def progress(self, done: int, total: int | None, message: str | None = None) -> None:
            if message == "bread.md":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await shelf.documents.job.index_documents(StoppedRun(shelf.owner))
    between = await found(shelf, "water")
    result = await shelf.documents.job.index_documents(Run(shelf.owner, attempt=2))

    assert between == ["tides.md"]
    assert result["indexed"] == 1
    assert set(await found(shelf, "water")) == {"tides.md", "bread.md"}
    assert len(await booked(shelf)) == 2


async def test_what_is_indexed_anew_is_found_all_the_while(shelf: Shelf) -> None:
    await shelf.add(TIDES, "tides.md")
    await shelf.documents.job.index_documents(Run(shelf.owner))
    seen: list[list[str]] = []

    class WatchedRun(Run):
        async def progress(self, done: int, total: int | None, message: str | None = None) -> None:
            seen.append(await found(shelf, "Why does the water rise?"))

    result = await shelf.documents.job.index_documents(
        WatchedRun(shelf.owner, {"collection": "default", "again": True})
    )

    assert result["indexed"] == 1
    assert len(seen) > 1
    assert all(names == ["tides.md"] for names in seen)
    assert len(await booked(shelf)) == 2


async def test_a_document_that_is_gone_is_passed_over(shelf: Shelf) -> None:
    put = await shelf.add(TIDES, "tides.md")
    await shelf.documents.service.remove(shelf.owner, put.document.id)

    result = await shelf.documents.job.index_documents(
        Run(shelf.owner, {"documents": [put.document.id, new_id()]})
    )

    assert (result["indexed"], result["failed"]) == (0, 0)


async def test_nobody_elses_documents_are_indexed(shelf: Shelf) -> None:
    put = await shelf.add(TIDES, "tides.md")

    result = await shelf.documents.job.index_documents(
        Run(Caller(new_id()), {"documents": [put.document.id]})
    )

    assert result["indexed"] == 0
    assert (await shelf.documents.service.document(shelf.owner, put.document.id)).status == "queued"


async def test_a_collection_that_is_not_there_fails_the_job(shelf: Shelf) -> None:
    with pytest.raises(NotFoundError):
        await shelf.documents.job.index_documents(Run(shelf.owner, {"collection": "nowhere"}))


async def test_a_document_that_its_owner_may_not_index_fails_alone_with_its_reason(
    shelf: Shelf,
) -> None:
    put = await shelf.add(TIDES, "tides.md")
    poor = Caller(shelf.owner.user_id, shelf.owner.key_id, models=frozenset({"another"}))

    result = await shelf.documents.job.index_documents(Run(poor))

    assert result["failed"] == 1
    assert result["failures"][0]["document_id"] == put.document.id
    told = await shelf.documents.service.document(shelf.owner, put.document.id)
    assert told.status == "failed"
    assert told.error == result["failures"][0]["reason"]


async def test_the_id_of_a_version_sorts_by_its_time(shelf: Shelf) -> None:
    put = await shelf.add(TIDES, "tides.md")

    made = UUID(version_id(put.document))

    assert made.version == 7
    assert made.int >> 80 == int(put.document.updated_at.timestamp() * 1000)
    assert version_id(put.document) == str(made)
