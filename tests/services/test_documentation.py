"""Galley's own documentation, indexed in the background of whatever else a server does."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from galley.core.caller import Caller
from galley.core.catalogue import EMBEDDED_MODELS
from galley.db.tables import new_id
from galley.services.documentation import Documentation, documentation_folder, read_pages
from galley.services.models import Models
from galley.services.retrieval import Query
from galley.stores.passages import EVERYONE, Document, Passages
from galley.stores.passages_sqlite import SqlitePassages, open_passages
from tests.documents import DOCS
from tests.services.shelf import MODEL, Shelf, open_shelf
from tests.serving import LiveServer, make_settings, serving
from tests.stores.library import open_store

pytestmark = pytest.mark.anyio

PAGES = {
    "tides.md": "# Tides\n\nThe moon pulls the sea, and twice a day the water rises.",
    "decisions/0001-bread.md": "# Bread\n\nThe dough has to rest overnight.",
}


@pytest.fixture
async def shelf(tmp_path: Path, models_dir: Path) -> AsyncIterator[Shelf]:
    async with open_shelf(tmp_path, models_dir) as opened:
        yield opened


@pytest.fixture
async def passages(tmp_path: Path) -> AsyncIterator[SqlitePassages]:
    async with open_passages(tmp_path / "documentation.db", memory_bytes=10_000_000) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in PAGES.items():
        write(tmp_path / "pages" / name, text)
    return tmp_path / "pages"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


async def index(passages: Passages, models: Models, folder: Path) -> dict[str, Document]:
    """Index the pages as they are, and return what everybody sees then."""
    documentation = Documentation(passages, models, folder)
    await documentation.index()
    assert not documentation.is_indexing
    page = await passages.documents(new_id(), collection_id=await place(passages))
    return {document.name: document for document in page.rows}


async def place(passages: Passages) -> str:
    found = await passages.collection(EVERYONE, "galley")
    assert found is not None
    return found.id


async def test_every_page_is_there_for_everybody(
    shelf: Shelf, passages: SqlitePassages, folder: Path
) -> None:
    found = await index(passages, shelf.runtime.models, folder)

    assert found.keys() == PAGES.keys()
    assert {document.status for document in found.values()} == {"indexed"}


async def test_only_pages_that_changed_are_indexed_anew(
    shelf: Shelf, passages: SqlitePassages, folder: Path
) -> None:
    before = await index(passages, shelf.runtime.models, folder)
    write(folder / "tides.md", "# Tides\n\nIt is the moon.")
    write(folder / "new.md", "# News\n\nThere are none.")
    (folder / "decisions" / "0001-bread.md").unlink()

    after = await index(passages, shelf.runtime.models, folder)
    again = await index(passages, shelf.runtime.models, folder)

    assert after.keys() == {"tides.md", "new.md"}
    assert after["tides.md"].id == before["tides.md"].id
    assert after["tides.md"].updated_at > before["tides.md"].updated_at
    assert again == after


async def test_servers_that_start_together_on_one_postgresql_index_each_page_once(
    shelf: Shelf, postgresql_url_at_head: str, folder: Path
) -> None:
    async with (
        open_store(postgresql_url_at_head) as one,
        open_store(postgresql_url_at_head) as two,
    ):
        models = shelf.runtime.models
        await asyncio.gather(*(Documentation(p, models, folder).index() for p in (one, two)))

        page = await one.documents(new_id(), collection_id=await place(two))

    assert sorted(document.name for document in page.rows) == sorted(PAGES)
    assert {document.status for document in page.rows} == {"indexed"}


async def test_another_model_makes_all_of_it_anew(
    shelf: Shelf, passages: SqlitePassages, folder: Path
) -> None:
    await index(passages, shelf.runtime.models, folder)
    before = await place(passages)
    other = Models({"another": EMBEDDED_MODELS[MODEL]})
    engine = shelf.runtime.models.find(MODEL).replicas[0].engine

    async def same_engine(*_: object) -> object:
        return engine

    await other.load(same_engine)  # pyright: ignore[reportArgumentType] - it has the shape of an engine
    found = await index(passages, other, folder)

    assert found.keys() == PAGES.keys()
    assert await place(passages) != before


async def test_without_a_model_that_runs_here_nothing_is_indexed(
    passages: SqlitePassages, folder: Path
) -> None:
    documentation = Documentation(passages, Models({}), folder)

    await documentation.index()

    assert not documentation.is_indexing
    assert (await passages.collections(EVERYONE)).rows == []


async def test_it_is_searched_by_who_has_nothing_and_by_who_names_it(
    shelf: Shelf, tmp_path: Path, models_dir: Path
) -> None:
    passages = shelf.documents.passages
    await index(passages, shelf.runtime.models, tmp_path / "nothing")
    write(tmp_path / "pages" / "tides.md", PAGES["tides.md"])
    await index(passages, shelf.runtime.models, tmp_path / "pages")
    stranger, search = Caller(new_id()), shelf.documents.retrieval.find
    await shelf.add(b"Nothing but bread.", "bread.txt", background=False)

    by_stranger = await search(stranger, Query("moon"))
    by_owner = await search(shelf.owner, Query("moon"))
    named = await search(shelf.owner, Query("moon", collections=["galley"]))

    assert [found.document_name for found in by_stranger.found] == ["tides.md"]
    assert [found.document_name for found in by_owner.found] == ["bread.txt"]
    assert [found.document_name for found in named.found] == ["tides.md"]


def test_the_pages_are_those_of_the_docs() -> None:
    pages = read_pages(documentation_folder())

    assert {page.name for page in pages} == {
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    }
    assert all(page.text and page.media_type == "text/markdown" for page in pages)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[LiveServer]:
    """A server on its first start, which has its documentation to index."""
    settings = make_settings(
        tmp_path_factory.mktemp("first"), models_dir,
        embedded_documents=True, embedded_models=False, models={MODEL: EMBEDDED_MODELS[MODEL]},
    )  # fmt: skip
    with serving(settings) as live:
        yield live


def test_a_first_start_answers_from_it_or_says_that_it_is_being_indexed(server: LiveServer) -> None:
    question = {"query": "How do I make an API key?", "detail": True}
    while (answer := server.client.get("/retrieve", params=question)).status_code == 503:
        assert "still being indexed" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0

    assert answer.status_code == 200
    assert answer.json()["passages"][0]["collection"] == "galley"


def test_nobody_can_change_it(server: LiveServer) -> None:
    added = server.post("/v1/documents", text="Believe me.", collection="galley")
    gone = server.client.delete("/v1/collections/galley")
    listed = server.client.get("/v1/documents", params={"collection": "galley", "limit": 1})
    document = listed.json()["data"][0]["id"]
    removed = server.client.delete(f"/v1/documents/{document}")
    changed = server.client.put(f"/v1/documents/{document}", json={"text": "Believe me."})

    assert [answer.status_code for answer in (added, gone, removed, changed)] == [403] * 4
    assert server.client.get(f"/v1/documents/{document}").json()["text"].startswith("#")
