"""What several servers on one PostgreSQL see of each other's documents."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from galley.core.errors import ConflictError, NotFoundError
from galley.db.session import Database, open_database
from galley.stores.passages import Collection, Compare, Draft, NewCollection, Only, Passage, Slice
from galley.stores.passages_postgres import PostgresPassages, open_passages
from galley.stores.passages_postgres_tidy import STAGED_FOR
from galley.stores.passages_postgres_words import Stemmer
from tests.stores.library import (
    DIMENSIONS,
    MODEL,
    add,
    ask,
    collect,
    draft,
    open_store,
    passages,
    slices,
)
from tests.stores.put_forever import PASSAGES, sentences
from tests.stores.test_passages_crash import kill_while_putting

pytestmark = pytest.mark.anyio

TIDE = ["The tide rises twice a day.", "The moon pulls the water.", "Harbours keep tables of it."]
BREAD = ["Dough rests for an hour.", "The oven is heated first."]
TABLES = ("document_versions", "passages", "passage_vectors")


@pytest.fixture
async def database(postgresql_url_at_head: str) -> AsyncGenerator[Database]:
    async with open_database(postgresql_url_at_head) as opened:
        yield opened


@pytest.fixture
async def servers(
    postgresql_url_at_head: str,
) -> AsyncGenerator[tuple[PostgresPassages, PostgresPassages]]:
    """Two, with connections of their own."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                open_passages(
                    await stack.enter_async_context(open_database(postgresql_url_at_head))
                )
            )
            for _ in range(2)
        ]
        yield one, two


async def counted(database: Database, query: str) -> int:
    async with database.engine.connect() as connection:
        return int((await connection.execute(text(query))).scalar_one())


async def rows_left(database: Database) -> list[int]:
    queries = [f"SELECT count(*) FROM {table}" for table in TABLES]  # noqa: S608 - of constants
    return [await counted(database, query) for query in queries]


async def test_what_one_server_adds_the_other_finds_at_once(
    servers: tuple[PostgresPassages, PostgresPassages],
):
    one, two = servers
    library = await collect(one, "ann")
    document = await add(one, library, "tide.txt", TIDE)

    assert [f.document_id for f in await ask(two, library, "moon", limit=1)] == [document.id]
    assert await two.remove("ann", document.id)
    assert await ask(one, library, "moon") == []


async def test_a_server_that_starts_leaves_alone_what_another_is_writing(database: Database):
    async with open_passages(database) as one:
        library = await collect(one, "ann")

        async def interrupted() -> AsyncGenerator[Slice]:
            yield passages(TIDE)
            async with open_passages(database) as two:
                await two.tidied()

        document = await one.put("ann", library.id, draft("tide.txt", TIDE), interrupted())

    assert (document.status, document.passages) == ("indexed", 3)


async def test_two_servers_that_index_the_same_document_leave_it_there_once(
    servers: tuple[PostgresPassages, PostgresPassages], database: Database
):
    one, two = servers
    library = await collect(one, "ann")
    queued = await one.accept("ann", library.id, draft("tide.txt", TIDE))

    made = await asyncio.gather(
        *(server.index("ann", queued.id, slices(TIDE, at_once=1)) for server in servers)
    )

    await one.tidied()
    await two.tidied()
    assert {(d.id, d.status, d.passages) for d in made} == {(queued.id, "indexed", 3)}
    assert sorted(f.text for f in await ask(two, library, "tide moon harbours")) == sorted(TIDE)
    assert await rows_left(database) == [1, 3, 3]
    assert (await two.collections("ann")).rows[0].passages == 3


async def test_documents_that_two_servers_replace_and_delete_at_once_stay_whole(
    servers: tuple[PostgresPassages, PostgresPassages], database: Database
):
    library = await collect(servers[0], "ann")
    document = await add(servers[0], library, "0", TIDE)

    async def replace(server: PostgresPassages, texts: list[str]) -> None:
        for n in range(10):
            try:
                await add(server, library, str(n), texts, document_id=document.id)
            except NotFoundError:  # the other one has deleted it meanwhile
                continue
            if n % 4 == 3:
                await server.remove("ann", document.id)

    await asyncio.gather(replace(servers[0], TIDE), replace(servers[1], BREAD))

    await servers[0].tidied()
    found = {passage.text for passage in await ask(servers[1], library, "tide oven water")}
    assert found in (set(TIDE), set(BREAD), set())
    assert (await servers[0].collections("ann")).rows[0].passages == len(found)
    words = "SELECT coalesce(sum(v.words), 0) FROM documents d JOIN document_versions v ON v.id ="
    assert await counted(database, "SELECT words FROM collections") == await counted(
        database, f"{words} d.live"
    )


async def test_what_a_killed_server_was_writing_is_cleared_away_within_hours_and_never_seen(
    postgresql_url_at_head: str, database: Database
):
    kill_while_putting(postgresql_url_at_head, 0.002)

    def later() -> datetime:
        return datetime.now(UTC) + 2 * STAGED_FOR

    async with open_passages(database, clock=later) as store:
        library = await store.collection("ann", "library")
        assert library is not None
        await store.tidied()
        documents = (await store.documents("ann")).rows
        texts = {f.text for f in await ask(store, library, "sentence of version", limit=100)}
    assert texts == {s for document in documents for s in sentences(int(document.name))}
    whole = len(documents)
    assert await rows_left(database) == [whole, whole * PASSAGES, whole * PASSAGES]
    shown = "SELECT count(*) FROM passage_words w JOIN documents d ON d.live = w.id >> 20"
    assert await counted(database, "SELECT count(*) FROM passage_words") == await counted(
        database, shown
    )


async def test_who_was_silent_for_hours_is_told_so_and_nothing_of_it_is_shown(database: Database):
    now = datetime.now(UTC)
    async with open_passages(database, clock=lambda: now) as store:
        library = await collect(store, "ann")

        async def silent() -> AsyncGenerator[Slice]:
            nonlocal now
            yield passages(TIDE[:2])
            now += STAGED_FOR + timedelta(minutes=1)
            await store.tidied()
            yield passages(TIDE[2:])

        with pytest.raises(ConflictError, match="add it again"):
            await store.put("ann", library.id, draft("tide.txt", TIDE), silent())

        assert await ask(store, library, "tide") == []
        await store.tidied()
    assert await rows_left(database) == [0, 0, 0]


def some_vectors(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


async def one_slice(rows: np.ndarray) -> AsyncGenerator[Slice]:
    yield Slice([Passage(n, n + 1, f"x{n}") for n in range(len(rows))], rows)


async def fill(store: PostgresPassages, owner: str, count: int, seed: int) -> Collection:
    library = await collect(store, owner)
    await store.put(owner, library.id, Draft("x", "x"), one_slice(some_vectors(count, seed)))
    return library


async def test_the_index_of_vectors_finds_the_nearest_of_the_owners_own_with_exact_scores(
    database: Database,
):
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'passage_vectors_64'"
    question = some_vectors(1, 3)[0]
    async with (
        open_passages(database) as exact,
        open_passages(database, graph_from=1) as indexed,
    ):
        await fill(exact, "bob", 900, 1)
        library = await fill(exact, "ann", 200, 2)

        async def nearest(store: PostgresPassages, **more: Any) -> list[tuple[int, float | None]]:
            found = await store.search(
                "ann", [library.id], text="", vectors={MODEL: question}, limit=20, **more
            )
            return [(passage.number, passage.dense) for passage in found]

        looked_at_all = await nearest(exact)
        before = await counted(database, scans)
        by_index = await nearest(indexed)
        narrowed = await nearest(indexed, only=Only(metadata=Compare("x", "ne", 1)))

    assert [number for number, _ in by_index] == [number for number, _ in looked_at_all]
    assert [c for _, c in by_index] == pytest.approx([c for _, c in looked_at_all], abs=1e-6)
    assert narrowed == looked_at_all
    async with asyncio.timeout(10):  # statistics come when a connection has been idle
        while await counted(database, scans) == before:
            await database.engine.dispose()
            await asyncio.sleep(0.1)


async def test_collections_of_many_dimensions_are_searched_without_an_index(database: Database):
    many = 4_001
    async with open_passages(database, graph_from=1) as store:
        wide = await store.create_collection("ann", NewCollection("wide", "wide-model", many))
        row = np.zeros((1, many), np.float32)
        row[0, 7] = 1
        await store.put("ann", wide.id, Draft("x", "x"), one_slice(row))

        found = await store.search(
            "ann", [wide.id], text="", vectors={"wide-model": row[0]}, limit=5
        )

    assert [passage.dense for passage in found] == [1.0]


async def test_both_stores_find_the_same_in_the_same_order_for_the_same_reasons(
    postgresql_url_at_head: str, tmp_path: Path
):
    answers: list[list[tuple[Any, ...]]] = []
    for place in (str(tmp_path / "passages.db"), postgresql_url_at_head):
        async with open_store(place) as store:
            library = await collect(store, "ann")
            await add(store, library, "tide", TIDE)
            await add(store, library, "bread", BREAD)
            answers.append(
                [
                    (found.document_name, found.number, found.dense_rank, found.bm25_rank,
                     round(found.score, 5), round(found.dense or 0, 5), round(found.bm25 or 0, 5))
                    for question in ("what pulls the waters", "resting dough", "day hour moon")
                    for found in await ask(store, library, question, limit=2)
                ]
            )  # fmt: skip

    sqlite, postgresql = answers
    assert len(sqlite) == 6
    assert postgresql == sqlite


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "' OR 1=1 --"])
async def test_names_that_no_text_can_have_are_names_of_nothing(database: Database, name: str):
    async with open_passages(database) as store:
        library = await collect(store, "ann")
        await add(store, library, "tide.txt", TIDE)

        assert await store.collection("ann", name) is None
        assert await store.document("ann", name) is None
        assert not await store.remove("ann", name)
        assert (await store.documents("ann", name=name)).rows == []
        assert await ask(store, library, "tide", only=Only(document_ids=[name])) == []


async def test_stems_are_told_also_of_words_that_were_forgotten_meanwhile(database: Database):
    stemmer = Stemmer(most=2)
    async with database.engine.connect() as connection:
        await stemmer.stems(connection, ["tides", "moons"])

        found = await stemmer.stems(connection, ["tides", "harbours"])
        again = await stemmer.stems(connection, ["moons", "rising", "harbours"])

    assert found == {"tides": "tide", "harbours": "harbour"}
    assert again == {"moons": "moon", "rising": "rise", "harbours": "harbour"}


async def test_what_is_deleted_is_cleared_away_although_that_has_failed_before(database: Database):
    async def rename(before: str, after: str) -> None:
        async with database.engine.begin() as connection:
            await connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    async with open_passages(database) as store, asyncio.timeout(10):
        library = await collect(store, "ann")
        tide, bread = [await add(store, library, name, TIDE) for name in ("tide", "bread")]
        await rename("passage_words", "elsewhere")
        with capture_logs() as lines:
            await store.remove("ann", tide.id)
            while not any(line["event"] == "passages_not_tidied" for line in lines):  # noqa: ASYNC110 - nobody rings a bell for it
                await asyncio.sleep(0.02)
        await rename("elsewhere", "passage_words")

        await store.remove("ann", bread.id)

        while any(await rows_left(database)):  # noqa: ASYNC110 - nobody rings a bell for it
            await asyncio.sleep(0.02)
