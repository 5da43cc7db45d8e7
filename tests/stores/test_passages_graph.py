"""Large collections: their nearest vectors are found by an index, and by looking where it ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from galley.stores.passages import (
    Collection,
    Document,
    Draft,
    Floats,
    Found,
    Only,
    Passage,
    Slice,
)
from galley.stores.passages_sqlite import SqlitePassages, open_passages
from tests.stores.library import DIMENSIONS, MODEL, collect

pytestmark = pytest.mark.anyio

LARGE = 1000
PER_DOCUMENT = 50
WANTED = 10


def opened(folder: Path) -> AbstractAsyncContextManager[SqlitePassages]:
    return open_passages(folder / "p.db", memory_bytes=10**8, graph_from=LARGE)


def vectors(rows: int, seed: int) -> Floats:
    """Unit vectors around a few centres, as texts on a few topics have them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((20, DIMENSIONS))
    made = centres[rng.integers(0, 20, rows)] + 0.7 * rng.standard_normal((rows, DIMENSIONS))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


async def put(
    store: SqlitePassages, library: Collection, seed: int, document_id: str | None = None
) -> Document:
    async def one() -> AsyncGenerator[Slice]:
        passages = [Passage(n, n + 1, f"{seed} {n}") for n in range(PER_DOCUMENT)]
        yield Slice(passages, vectors(PER_DOCUMENT, seed))

    draft = Draft(str(seed), "x")
    return await store.put("ann", library.id, draft, one(), document_id=document_id)


async def ask(
    store: SqlitePassages, library: Collection, vector: Floats, only: Only | None = None
) -> list[Found]:
    return await store.search(
        "ann", [library.id], text="", vectors={MODEL: vector}, limit=WANTED, only=only
    )


async def recall(store: SqlitePassages, library: Collection, seeds: list[int]) -> float:
    """The part of the nearest passages of documents made of `seeds` that is found."""
    kept = np.concatenate([vectors(PER_DOCUMENT, seed) for seed in seeds])
    names = [f"{seed} {n}" for seed in seeds for n in range(PER_DOCUMENT)]
    hits = 0
    questions = vectors(40, 99_999)
    for question in questions:
        nearest = {names[place] for place in np.argsort(-(kept @ question))[:WANTED]}
        hits += len(nearest & {found.text for found in await ask(store, library, question)})
    return hits / (WANTED * len(questions))


async def built(store: SqlitePassages, library: Collection) -> int:
    """Let the index be made, and return how many passages are in it."""
    await ask(store, library, vectors(1, 0)[0])
    await asyncio.to_thread(store.graphs.settled)
    (graph,) = store.graphs.ready.values()
    return len(graph.index)


async def test_the_nearest_are_found_by_the_index_and_beside_it(tmp_path: Path):
    async with opened(tmp_path) as store:
        library = await collect(store, "ann")
        made = {seed: await put(store, library, seed) for seed in range(40)}
        indexed = await built(store, library)
        whole = await recall(store, library, list(made))

        for seed in (3, 4):  # replaced by others, and gone
            await put(store, library, 100 + seed, made[seed].id)
        await store.remove("ann", made[5].id)
        changed = [seed for seed in made if seed not in (3, 4, 5)] + [103, 104]
        beside = await recall(store, library, changed)
        await asyncio.to_thread(store.graphs.settled)
        again = await built(store, library)

        assert indexed == 40 * PER_DOCUMENT
        assert whole >= 0.98
        assert beside >= 0.98
        assert again == 39 * PER_DOCUMENT  # what is gone is too much of it: it is made anew
        assert await recall(store, library, changed) >= 0.98


async def test_what_is_added_joins_the_index_when_it_is_much(tmp_path: Path):
    async with opened(tmp_path) as store:
        library = await collect(store, "ann")
        seeds = list(range(30))
        for seed in seeds[:22]:
            await put(store, library, seed)
        before = await built(store, library)
        await put(store, library, 22)
        little = await built(store, library)
        for seed in seeds[23:]:
            await put(store, library, seed)
        much = await built(store, library)

        assert (before, little, much) == (1100, 1100, 1500)
        assert await recall(store, library, seeds) >= 0.98


async def test_below_the_size_there_is_no_index(tmp_path: Path):
    async with opened(tmp_path) as store:
        library = await collect(store, "ann")
        for seed in range(LARGE // PER_DOCUMENT - 1):
            await put(store, library, seed)

        assert await recall(store, library, list(range(LARGE // PER_DOCUMENT - 1))) == 1
        assert not store.graphs.ready


async def test_a_search_of_few_documents_is_exact_beside_an_index(tmp_path: Path):
    async with opened(tmp_path) as store:
        library = await collect(store, "ann")
        made = [await put(store, library, seed) for seed in range(22)]
        await built(store, library)
        question = vectors(1, 7)[0]

        found = await ask(store, library, question, Only(document_ids=[made[9].id]))

        nearest = np.sort(vectors(PER_DOCUMENT, 9) @ question)[::-1][:WANTED]
        assert [passage.dense for passage in found] == pytest.approx(nearest.tolist(), abs=1e-6)


async def test_an_index_is_there_again_after_a_restart(tmp_path: Path):
    async with opened(tmp_path) as store:
        library = await collect(store, "ann")
        for seed in range(22):
            await put(store, library, seed)
        await built(store, library)
    (file,) = (tmp_path / "p.graphs").glob("*.usearch")
    before = file.stat().st_mtime_ns

    async with opened(tmp_path) as store:
        indexed = await built(store, library)
        found = await recall(store, library, list(range(22)))

    assert (indexed, file.stat().st_mtime_ns) == (1100, before)
    assert found >= 0.98


@pytest.mark.parametrize("damage", ["cut", "changed", "another version"])
async def test_an_index_that_cannot_be_trusted_is_made_anew(tmp_path: Path, damage: str):
    async with opened(tmp_path) as store:
        library = await collect(store, "ann")
        for seed in range(22):
            await put(store, library, seed)
        await built(store, library)
    (file,) = (tmp_path / "p.graphs").glob("*.usearch")
    (described,) = (tmp_path / "p.graphs").glob("*.json")
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        file.write_bytes(data[:100] + b"\xff" * 100 + data[200:])
    else:
        described.write_bytes(described.read_bytes().replace(b'"usearch":"', b'"usearch":"0.'))

    async with opened(tmp_path) as store:
        indexed = await built(store, library)
        found = await recall(store, library, list(range(22)))

    assert indexed == 1100
    assert found >= 0.98
    assert not file.exists()


async def test_the_index_of_a_deleted_collection_is_deleted(tmp_path: Path):
    async with opened(tmp_path) as store:
        library = await collect(store, "ann")
        for seed in range(22):
            await put(store, library, seed)
        await built(store, library)

        await store.delete_collection("ann", library.id)

        assert list((tmp_path / "p.graphs").iterdir()) == []
        assert not store.graphs.ready


async def test_where_no_index_can_be_kept_all_vectors_are_looked_at(tmp_path: Path):
    (tmp_path / "p.graphs").write_text("This is in the way.")
    async with opened(tmp_path) as store:
        library = await collect(store, "ann")
        for seed in range(22):
            await put(store, library, seed)

        with capture_logs() as logs:
            for _ in range(3):
                await ask(store, library, vectors(1, 0)[0])
                await asyncio.to_thread(store.graphs.settled)

        assert [line["event"] for line in logs] == ["vector_index_failed"]  # tried once
        assert await recall(store, library, list(range(22))) == 1
