"""What a store of passages promises: whole documents, their owners, and nothing in between."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from galley.core.errors import BadRequestError, ConflictError, NotFoundError, OverloadedError
from galley.db.tables import new_id
from galley.stores.passages import EVERYONE, Draft, Passage, Passages, Slice
from galley.stores.passages_sqlite import open_passages
from tests.stores.library import DIMENSIONS, Store, add, ask, collect, draft, passages, slices

pytestmark = pytest.mark.anyio

TIDE = ["The tide rises twice a day.", "The moon pulls the water.", "Harbours keep tables of it."]
BREAD = ["Dough rests for an hour.", "The oven is heated first."]


async def test_a_collection_is_found_by_its_id_and_by_its_name(store: Passages):
    made = await collect(store, "ann", "recipes")

    assert await store.collection("ann", made.id) == made
    assert await store.collection("ann", "recipes") == made
    assert (await store.collections("ann")).rows == [made]
    assert (made.name, made.dimensions, made.documents, made.passages) == (
        "recipes", DIMENSIONS, 0, 0,
    )  # fmt: skip


async def test_two_collections_of_an_owner_cannot_have_the_same_name(store: Passages):
    await collect(store, "ann", "recipes")

    with pytest.raises(ConflictError, match="recipes"):
        await collect(store, "ann", "recipes")


async def test_a_document_is_kept_with_its_text_and_its_passages_are_found(store: Passages):
    library = await collect(store, "ann")

    document = await add(store, library, "tide.txt", TIDE, metadata={"topic": "sea"})

    assert (document.name, document.status, document.passages) == ("tide.txt", "indexed", 3)
    assert document.characters == len(" ".join(TIDE))
    assert await store.document("ann", document.id) == document
    kept = await store.draft("ann", document.id)
    assert kept is not None
    assert kept == draft("tide.txt", TIDE, {"topic": "sea"})
    found = (await ask(store, library, "what pulls the water?"))[0]
    assert (found.document_id, found.number, found.metadata) == (document.id, 1, {"topic": "sea"})
    assert kept.text[found.start : found.end] == found.text == TIDE[1]
    counted = await store.collection("ann", library.id)
    assert counted is not None
    assert (counted.documents, counted.passages) == (1, 3)


async def test_a_new_version_takes_the_place_of_the_old_one(store: Passages):
    library = await collect(store, "ann")
    old = await add(store, library, "notes.txt", TIDE)

    new = await add(store, library, "notes.txt", BREAD, document_id=old.id)

    assert new.id == old.id
    assert new.created_at == old.created_at
    assert {found.text for found in await ask(store, library, "tide oven water")} == set(BREAD)
    assert len((await store.documents("ann")).rows) == 1


async def test_half_a_document_is_never_seen(store: Passages):
    library = await collect(store, "ann")
    old = await add(store, library, "notes.txt", TIDE)
    seen: list[set[str]] = []

    async def watched() -> AsyncGenerator[Slice]:
        async for piece in slices(BREAD, at_once=1):
            yield piece
            seen.append({found.text for found in await ask(store, library, "tide oven water")})

    await store.put("ann", library.id, draft("notes.txt", BREAD), watched(), document_id=old.id)

    assert seen == [set(TIDE), set(TIDE)]


@pytest.mark.parametrize("ending", [RuntimeError, asyncio.CancelledError])
async def test_a_document_that_breaks_off_leaves_everything_as_it_was(
    store: Store, ending: type[BaseException]
):
    library = await collect(store, "ann")
    old = await add(store, library, "notes.txt", TIDE)
    before = await ask(store, library, "tide oven water")

    async def broken() -> AsyncGenerator[Slice]:
        yield passages(BREAD)
        raise ending

    with pytest.raises(ending):
        await store.put("ann", library.id, draft("new.txt", BREAD), broken())
    with pytest.raises(ending):
        await store.put("ann", library.id, draft("n.txt", BREAD), broken(), document_id=old.id)

    await store.tidied()
    assert await ask(store, library, "tide oven water") == before
    assert (await store.documents("ann")).rows == [old]


async def test_a_put_that_is_cancelled_happened_whole_or_not_at_all(store: Store):
    library = await collect(store, "ann")
    ids = [new_id() for _ in range(40)]

    for n, document_id in enumerate(ids):
        putting = asyncio.create_task(
            add(store, library, f"{n}.txt", TIDE, document_id=document_id)
        )
        await asyncio.sleep(n * 0.0003)
        putting.cancel()
        with suppress(asyncio.CancelledError):
            await putting

    await store.tidied()
    kept = [document for i in ids if (document := await store.document("ann", i)) is not None]
    assert all((document.status, document.passages) == ("indexed", 3) for document in kept)
    assert len(await ask(store, library, "tide", limit=100)) == min(3 * len(kept), 100)


async def test_text_is_accepted_now_and_indexed_later(store: Passages):
    library = await collect(store, "ann")

    accepted = await store.accept("ann", library.id, draft("tide.txt", TIDE))
    before = await ask(store, library, "tide")
    indexed = await store.index("ann", accepted.id, slices(TIDE))

    assert (accepted.status, accepted.passages, before) == ("queued", 0, [])
    assert (indexed.id, indexed.status, indexed.passages) == (accepted.id, "indexed", 3)
    assert len(await ask(store, library, "tide")) == 3


async def test_what_is_indexed_stays_so_while_a_newer_version_waits_and_when_it_fails(
    store: Passages,
):
    library = await collect(store, "ann")
    old = await add(store, library, "notes.txt", TIDE)

    queued = await store.accept("ann", library.id, draft("b.txt", BREAD), document_id=old.id)
    await store.fail("ann", old.id, "The model said no.")
    failed = await store.document("ann", old.id)

    assert (queued.name, queued.status, queued.passages) == ("b.txt", "queued", 3)
    assert failed is not None
    assert (failed.status, failed.error, failed.passages) == ("failed", "The model said no.", 3)
    assert {f.document_name for f in await ask(store, library, "tide water oven")} == {"notes.txt"}


async def test_indexing_again_changes_nothing(store: Passages):
    library = await collect(store, "ann")
    document = await add(store, library, "tide.txt", TIDE)

    again = await store.index("ann", document.id, slices(BREAD))

    assert again == document
    assert {found.text for found in await ask(store, library, "tide oven water")} == set(TIDE)


async def test_an_older_text_that_is_ready_later_does_not_replace_a_newer_one(store: Passages):
    library = await collect(store, "ann")
    accepted = await store.accept("ann", library.id, draft("old.txt", TIDE))

    async def overtaken() -> AsyncGenerator[Slice]:
        yield passages(TIDE)
        await add(store, library, "new.txt", BREAD, document_id=accepted.id)

    document = await store.index("ann", accepted.id, overtaken())

    assert (document.name, document.status) == ("new.txt", "indexed")
    assert {found.text for found in await ask(store, library, "tide oven water")} == set(BREAD)


async def test_a_text_that_is_accepted_while_an_older_one_is_indexed_waits_its_turn(
    store: Passages,
):
    library = await collect(store, "ann")
    accepted = await store.accept("ann", library.id, draft("old.txt", TIDE))

    async def overtaken() -> AsyncGenerator[Slice]:
        yield passages(TIDE)
        await store.accept("ann", library.id, draft("new.txt", BREAD), document_id=accepted.id)

    between = await store.index("ann", accepted.id, overtaken())
    after = await store.index("ann", accepted.id, slices(BREAD))

    assert (between.name, between.status, between.passages) == ("new.txt", "queued", 3)
    assert (after.name, after.status, after.passages) == ("new.txt", "indexed", 2)


@pytest.mark.parametrize("gone", ["document", "collection"])
async def test_what_is_deleted_while_it_is_indexed_stays_deleted(store: Store, gone: str):
    library = await collect(store, "ann")
    document = await add(store, library, "tide.txt", TIDE)

    async def deleted() -> AsyncGenerator[Slice]:
        yield passages(BREAD)
        if gone == "document":
            await store.remove("ann", document.id)
        else:
            await store.delete_collection("ann", library.id)

    with pytest.raises(NotFoundError):
        await store.put("ann", library.id, draft("b", BREAD), deleted(), document_id=document.id)

    await store.tidied()
    assert await store.document("ann", document.id) is None
    assert await ask(store, library, "tide oven water") == []


async def test_deleted_documents_and_collections_are_gone_at_once(store: Passages):
    library = await collect(store, "ann")
    first = await add(store, library, "tide.txt", TIDE)
    await add(store, library, "bread.txt", BREAD)

    removed = await store.remove("ann", first.id), await store.remove("ann", first.id)
    left = {found.text for found in await ask(store, library, "tide oven water")}
    deleted = [await store.delete_collection("ann", library.id) for _ in range(2)]

    assert (removed, left, deleted) == ((True, False), set(BREAD), [True, False])
    assert await store.draft("ann", first.id) is None
    assert await store.collection("ann", "library") is None
    assert (await store.documents("ann")).rows == []
    assert await ask(store, library, "tide oven water") == []


async def test_documents_are_listed_in_pages_by_collection_name_and_status(store: Passages):
    one, two = await collect(store, "ann", "one"), await collect(store, "ann", "two")
    made = [await add(store, one, f"{n}.txt", TIDE) for n in range(5)]
    other = await add(store, two, "0.txt", BREAD)
    waiting = await store.accept("ann", two.id, draft("w.txt", BREAD))

    first = await store.documents("ann", collection_id=one.id, limit=3)
    rest = await store.documents("ann", collection_id=one.id, after=first.rows[-1].id, limit=3)

    assert [*first.rows, *rest.rows] == made
    assert (first.has_more, rest.has_more) == (True, False)
    assert (await store.documents("ann", name="0.txt")).rows == [made[0], other]
    assert (await store.documents("ann", status="queued")).rows == [waiting]
    with pytest.raises(BadRequestError):
        await store.documents("ann", after="x' OR 1=1 --")


async def test_everyones_collection_is_read_by_all_and_changed_by_none(store: Passages):
    manual = await collect(store, EVERYONE, "manual")
    document = await add(store, manual, "tide.txt", TIDE)

    found = await ask(store, manual, "tide", owner="ann")

    assert found[0].document_id == document.id
    assert await store.collection("ann", "manual") is not None
    assert await store.document("ann", document.id) == document
    assert (await store.documents("ann", collection_id=manual.id)).rows == [document]
    assert (await store.documents("ann")).rows == []
    assert not await store.remove("ann", document.id)
    assert not await store.delete_collection("ann", manual.id)
    with pytest.raises(NotFoundError):
        await add(store, await collect(store, "ann"), "x", BREAD, document_id=document.id)
    with pytest.raises(NotFoundError):
        await store.put("ann", manual.id, draft("x", BREAD), slices(BREAD))


async def test_an_owners_own_collection_comes_before_everyones_of_the_same_name(store: Passages):
    await collect(store, EVERYONE, "manual")
    own = await collect(store, "ann", "manual")

    assert await store.collection("ann", "manual") == own


async def test_a_document_without_passages_is_kept_and_never_found(store: Passages):
    library = await collect(store, "ann")

    document = await store.put("ann", library.id, Draft("empty.txt", ""), slices([]))

    assert (document.status, document.passages) == ("indexed", 0)
    assert await ask(store, library, "anything") == []


async def test_vectors_that_do_not_fit_are_refused_and_leave_nothing(store: Store):
    library = await collect(store, "ann")

    async def wrong(rows: int, columns: int, value: float) -> AsyncGenerator[Slice]:
        yield Slice([Passage(0, 1, "x")], np.full((rows, columns), value, np.float32))

    for shape in ((1, DIMENSIONS + 1, 1.0), (2, DIMENSIONS, 1.0), (1, DIMENSIONS, np.nan)):
        with pytest.raises(ValueError, match="vectors"):
            await store.put("ann", library.id, Draft("x", "x"), wrong(*shape))

    assert (await store.documents("ann")).rows == []


async def test_documents_are_dated_by_the_clock_they_are_given(tmp_path: Path):
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)

    async with open_passages(tmp_path / "p.db", memory_bytes=0, clock=lambda: noon) as store:
        library = await collect(store, "ann")
        document = await add(store, library, "tide.txt", TIDE)

    assert (library.created_at, document.created_at, document.updated_at) == (noon, noon, noon)


async def test_everything_is_there_after_a_restart(tmp_path: Path):
    async with open_passages(tmp_path / "p.db", memory_bytes=10**8) as store:
        library = await collect(store, "ann")
        document = await add(store, library, "tide.txt", TIDE)
        before = await ask(store, library, "the moon")

    async with open_passages(tmp_path / "p.db", memory_bytes=10**8) as store:
        assert await store.document("ann", document.id) == document
        assert await ask(store, library, "the moon") == before
    assert (tmp_path / "p.db").stat().st_mode & 0o777 == 0o600


async def test_a_file_that_is_locked_for_long_is_said_to_be_out_of_reach(tmp_path: Path):
    async with open_passages(tmp_path / "p.db", memory_bytes=0, busy_timeout_s=0.05) as store:
        library = await collect(store, "ann")
        await store.tidied()
        with closing(sqlite3.connect(tmp_path / "p.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            with pytest.raises(OverloadedError):
                await add(store, library, "tide.txt", TIDE)

            other.execute("ROLLBACK")
        document = await add(store, library, "tide.txt", TIDE)

    assert document.passages == 3
