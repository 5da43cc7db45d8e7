"""What a search finds: by meaning, by words, of the right documents, in the right order."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest

from galley.stores.passages import Combine, Compare, Draft, Filter, Only, Passage, Slice
from galley.stores.passages_sqlite import open_passages
from galley.stores.passages_terms import MAX_TERMS
from tests.stores.library import DIMENSIONS, MODEL, Store, add, ask, collect, slices, vector

pytestmark = pytest.mark.anyio

MANUAL = {
    "limits": [
        "A limit of five requests a minute holds for every user of the free tier.",
        "Limits are counted in sliding windows, so no minute ever has more.",
        "The answer to a refused request says when to come back.",
    ],
    "backup": [
        "Copy the database with the backup command while the server runs.",
        "A restored server continues where the copy was taken.",
    ],
    "models": [
        "Error E4711 means that the model's file is damaged.",
        "Models are loaded when the server starts.",
        "Weights are fetched once and kept in the data directory.",
    ],
}


async def by_words(store: Store, text: str) -> list[str]:
    """Search without a vector, in everything that there is."""
    ids = [collection.id for collection in (await store.collections("ann")).rows]
    found = await store.search("ann", ids, text=text, vectors={}, limit=10)
    return [passage.text for passage in found]


@pytest.mark.parametrize(
    ("question", "document", "number"),
    [
        ("How many requests may a free user send per minute?", "limits", 0),
        ("what is error E4711", "models", 0),
        ("Where are the weights kept?", "models", 2),
        ("restoring a copy", "backup", 1),
        ("How is a database copied?", "backup", 0),
        ("are requests counted in windows that slide", "limits", 1),
    ],
)
async def test_the_passage_that_answers_comes_first(
    store: Store, question: str, document: str, number: int
):
    library = await collect(store, "ann")
    for name, sentences in MANUAL.items():
        await add(store, library, name, sentences)

    found = await ask(store, library, question)

    assert (found[0].document_name, found[0].number) == (document, number)
    assert [passage.score for passage in found] == sorted((p.score for p in found), reverse=True)


async def test_scores_and_ranks_say_why_a_passage_was_found(store: Store):
    library = await collect(store, "ann")
    await add(store, library, "models", MANUAL["models"])

    found = await ask(store, library, "Error E4711 means that the model's file is damaged.")

    first, *others = found
    assert first.score == pytest.approx(1.0)
    assert first.dense == pytest.approx(1.0, abs=1e-6)
    assert (first.dense_rank, first.bm25_rank) == (1, 1)
    assert first.bm25 is not None
    assert first.bm25 > 0
    for passage in others:
        expected = 0.5 * 61 / (60 + (passage.dense_rank or 0))
        if passage.bm25_rank is not None:
            expected += 0.5 * 61 / (60 + passage.bm25_rank)
        assert passage.score == pytest.approx(expected)
        assert (passage.bm25 is None) == (passage.bm25_rank is None)


async def test_bm25_is_that_of_the_formula(store: Store):
    library = await collect(store, "ann")
    texts = ["tide tide tide tide moon", "tide harbour", "bread oven flour yeast"]
    await add(store, library, "a", texts)

    found = {p.text: p.bm25 for p in await ask(store, library, "tide")}

    # Source: Robertson and Zaragoza 2009; k1 = 1.2, b = 0.75; two of three passages have it.
    idf, mean = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5)), (5 + 2 + 4) / 3
    expected = {
        text: idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / mean))
        for text, tf, length in ((texts[0], 4, 5), (texts[1], 1, 2))
    }
    assert found == pytest.approx(expected | {texts[2]: None})


async def test_words_are_found_in_other_forms_cases_and_accents(store: Store):
    library = await collect(store, "ann")
    texts = ["Café menus were RUNNING out.", "The naïve approach", "東京の天気は晴れです"]
    await add(store, library, "a", texts)

    assert await by_words(store, "cafe") == [texts[0]]
    assert await by_words(store, "runs menu") == [texts[0]]
    assert await by_words(store, "NAÏVE approaches") == [texts[1]]
    assert await by_words(store, "天気") == [texts[2]]


async def test_function_words_are_passed_over_unless_there_is_nothing_else(store: Store):
    library = await collect(store, "ann")
    await add(store, library, "a", ["To be or not to be.", "The tide of the sea is in the bay."])

    assert await by_words(store, "what is the tide") == ["The tide of the sea is in the bay."]
    assert (await by_words(store, "to be or not to be"))[0] == "To be or not to be."


async def test_headings_are_searched_with_the_passages_under_them(store: Store):
    library = await collect(store, "ann")

    async def under_headings() -> AsyncGenerator[Slice]:
        found = [Passage(0, 5, "It costs nothing.", "Prices > Free tier"), Passage(6, 9, "Yes.")]
        yield Slice(found, np.stack([vector(p.text) for p in found]))

    await store.put("ann", library.id, Draft("prices", "..."), under_headings())

    assert await by_words(store, "price of the free tier") == ["It costs nothing."]


@pytest.mark.parametrize(
    "hostile",
    [
        '"', "'", "tide OR", "NEAR(tide moon, 2)", "body:tide", "tide*", "^tide", "(tide", "-tide",
        "tide AND NOT moon", "'; DROP TABLE passages; --", "\x00tide", "{tide}", "+", "1btide", "",
        "\ud800", "🙂", "a" * 100_000, "tide " * 50_000,
    ],
)  # fmt: skip
async def test_nothing_in_a_question_is_syntax(store: Store, hostile: str):
    library = await collect(store, "ann")
    await add(store, library, "a", ["The tide rises.", "The moon shines."])

    found = await ask(store, library, hostile)

    assert len(found) == 2
    assert len(await ask(store, library, "tide")) == 2
    with_words = [p.text for p in found if p.bm25 is not None]
    assert "The tide rises." in with_words or "tide" not in hostile.split()


async def test_a_question_of_very_many_words_is_answered_from_its_first(store: Store):
    library = await collect(store, "ann")
    await add(store, library, "a", ["The tide rises.", "The moon shines."])
    others = " ".join(f"w{n}" for n in range(MAX_TERMS))

    assert await by_words(store, f"tide {others} moon") == ["The tide rises."]


async def test_without_a_vector_words_alone_are_searched(store: Store):
    library = await collect(store, "ann")
    await add(store, library, "models", MANUAL["models"])

    found = await store.search("ann", [library.id], text="E4711", vectors={}, limit=5)

    assert [(p.number, p.dense, p.dense_rank, p.bm25_rank) for p in found] == [(0, None, None, 1)]


async def test_no_more_are_found_than_are_wanted_and_the_best_of_them(store: Store):
    library = await collect(store, "ann")
    for n in range(30):
        await add(store, library, str(n), [f"Number {n} of the tide.", "Something else."])

    found = await ask(store, library, "tide number 17", limit=3)

    assert len(found) == 3
    assert found[0].text == "Number 17 of the tide."


METADATA: dict[str, dict[str, object]] = {
    "a": {"year": 2020, "lang": "en", "draft": False},
    "b": {"year": 2024.5, "lang": "de", "draft": True},
    "c": {"lang": "en", "size": "2020"},
    "d": {},
}


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        (Compare("year", "eq", 2020), "a"),
        (Compare("year", "ne", 2020), "bcd"),
        (Compare("year", "gt", 2020), "b"),
        (Compare("year", "gte", 2020), "ab"),
        (Compare("year", "lt", 2021), "a"),
        (Compare("year", "lte", 2024.5), "ab"),
        (Compare("size", "eq", "2020"), "c"),
        (Compare("size", "eq", 2020), ""),
        (Compare("draft", "eq", True), "b"),
        (Compare("draft", "eq", 1), ""),
        (Compare("lang", "in", ["en", "fr"]), "ac"),
        (Compare("lang", "nin", ["en", "fr"]), "bd"),
        (Compare("lang", "in", []), ""),
        (Compare("' OR 1=1 --", "eq", "' OR 1=1 --"), ""),
        (Combine("and", [Compare("lang", "eq", "en"), Compare("year", "lt", 3000)]), "a"),
        (Combine("or", [Compare("lang", "eq", "de"), Compare("size", "eq", "2020")]), "bc"),
        (
            Combine("and", [Combine("or", [Compare("lang", "eq", "de")]), Compare("x", "ne", 1)]),
            "b",
        ),
    ],
)
async def test_a_search_keeps_to_documents_with_such_metadata(
    store: Store, metadata: Filter, names: str
):
    library = await collect(store, "ann")
    for name, values in METADATA.items():
        await add(store, library, name, ["The tide rises.", "The moon shines."], metadata=values)

    found = await ask(store, library, "the tide", only=Only(metadata=metadata))

    assert {passage.document_name for passage in found} == set(names)
    assert len(found) == 2 * len(names)


async def test_a_search_keeps_to_the_documents_it_is_given(store: Store):
    library = await collect(store, "ann")
    made = {name: await add(store, library, name, ["The tide rises."]) for name in "abc"}

    by_id = await ask(store, library, "tide", only=Only(document_ids=[made["b"].id, "x' --"]))
    by_name = await ask(store, library, "tide", only=Only(name="c"))
    by_both = await ask(store, library, "tide", only=Only([made["b"].id], name="c"))
    by_none = await ask(store, library, "tide", only=Only(document_ids=[]))

    assert [p.document_name for p in by_id] == ["b"]
    assert [p.document_name for p in by_name] == ["c"]
    assert (by_both, by_none) == ([], [])


async def test_what_is_found_is_the_nearest_after_many_changes(store: Store):
    """Vectors in memory are kept right, whatever comes and goes between searches."""
    rng = np.random.default_rng(1)
    library = await collect(store, "ann")
    kept: dict[str, np.ndarray] = {}

    async def one(rows: np.ndarray) -> AsyncGenerator[Slice]:
        yield Slice([Passage(n, n + 1, "x") for n in range(len(rows))], rows)

    for step in range(60):
        if step % 3 == 2 and kept:
            gone = list(kept)[int(rng.integers(len(kept)))]
            assert await store.remove("ann", gone)
            del kept[gone]
        else:
            rows = rng.standard_normal((int(rng.integers(1, 40)), DIMENSIONS)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            replaced = next(iter(kept)) if step % 5 == 4 and kept else None
            made = await store.put(
                "ann", library.id, Draft("x", "x"), one(rows), document_id=replaced
            )
            kept[made.id] = rows
        question = rng.standard_normal(DIMENSIONS).astype(np.float32)
        question /= np.linalg.norm(question)

        found = await store.search(
            "ann", [library.id], text="", vectors={MODEL: question}, limit=20
        )

        cosines = sorted(
            (float(c) for rows in kept.values() for c in rows @ question), reverse=True
        )
        assert [p.dense for p in found] == pytest.approx(cosines[:20], abs=1e-5)
        assert all(
            kept[p.document_id][p.number] @ question == pytest.approx(p.dense, abs=1e-5)
            for p in found
        )


async def test_searches_see_a_document_in_one_version_while_it_is_replaced(store: Store):
    library = await collect(store, "ann")
    texts = [[f"Tide {n} of version v{v}." for n in range(6)] for v in range(2)]
    document = await add(store, library, "a", texts[0])
    done = False

    async def replace() -> None:
        nonlocal done
        for n in range(30):
            await add(store, library, "a", texts[(n + 1) % 2], document_id=document.id)
        done = True

    async def search() -> int:
        searches = 0
        while not done:
            found = {passage.text for passage in await ask(store, library, "tide of version")}
            assert found in (set(texts[0]), set(texts[1]))
            searches += 1
        return searches

    _, *searches = await asyncio.gather(replace(), search(), search(), search())

    assert min(searches) > 0


async def test_vectors_in_memory_stay_within_their_bound_and_all_is_still_found(tmp_path: Path):
    room_for_one = 60 * (DIMENSIONS * 4 + 3)
    async with open_passages(tmp_path / "p.db", memory_bytes=room_for_one) as store:
        libraries = [await collect(store, "ann", str(n)) for n in range(4)]
        sizes = (50, 40, 30, 100)  # the last one has no room even alone
        for library, size in zip(libraries, sizes, strict=True):
            await add(store, library, "a", [f"Tide {n}." for n in range(size)])

        for _ in range(2):
            for library, size in zip(libraries, sizes, strict=True):
                found = await ask(store, library, "tide", limit=100)
                assert len(found) == size
                assert store.vectors.bytes <= room_for_one


async def test_another_process_that_writes_to_the_file_is_seen(tmp_path: Path):
    path = tmp_path / "p.db"
    async with (
        open_passages(path, memory_bytes=10**8) as store,
        open_passages(path, memory_bytes=10**8) as other,
    ):
        library = await collect(store, "ann")
        document = await add(other, library, "a", ["The tide rises."])
        first = await ask(store, library, "tide")
        await store.put(
            "ann", library.id, Draft("a", "x"), slices(["The moon."]), document_id=document.id
        )

        second = await ask(other, library, "moon")

    assert [p.text for p in first] == ["The tide rises."]
    assert [p.text for p in second] == ["The moon."]
