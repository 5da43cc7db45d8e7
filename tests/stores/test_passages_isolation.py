"""Two owners with the same names and the same texts: nothing of one reaches the other."""

import pytest

from galley.core.errors import NotFoundError
from galley.stores.passages import Only
from tests.stores.library import Store, add, ask, collect, draft, slices

pytestmark = pytest.mark.anyio

TEXT = ["The vault opens with the word walnut.", "Nobody else knows the word."]


async def test_each_finds_their_own_under_the_same_names(store: Store):
    made = {}
    for owner in ("ann", "bob"):
        library = await collect(store, owner)
        made[owner] = library, await add(store, library, "secret.txt", TEXT)

    for owner, (library, document) in made.items():
        found = await ask(store, library, "walnut")
        assert {passage.document_id for passage in found} == {document.id}
        assert (await store.collections(owner)).rows[0].id == library.id
        assert (await store.documents(owner, name="secret.txt")).rows == [document]
        assert (await store.collection(owner, "library")) is not None


async def test_ids_of_another_owner_are_ids_of_nothing(store: Store):
    library = await collect(store, "ann")
    document = await add(store, library, "secret.txt", TEXT)
    queued = await store.accept("ann", library.id, draft("later.txt", TEXT))
    own = await collect(store, "bob")

    assert await store.collection("bob", library.id) is None
    assert await store.document("bob", document.id) is None
    assert await store.draft("bob", document.id) is None
    assert (await store.documents("bob", collection_id=library.id)).rows == []
    assert await ask(store, library, "walnut", owner="bob") == []
    only = Only(document_ids=[document.id])
    assert await ask(store, own, "walnut", only=only) == []
    assert not await store.remove("bob", document.id)
    assert not await store.delete_collection("bob", library.id)
    for attempt in (
        store.put("bob", library.id, draft("x", TEXT), slices(TEXT)),
        store.put("bob", own.id, draft("x", TEXT), slices(TEXT), document_id=document.id),
        store.accept("bob", own.id, draft("x", TEXT), document_id=document.id),
        store.index("bob", queued.id, slices(TEXT)),
    ):
        with pytest.raises(NotFoundError):
            await attempt
    await store.fail("bob", queued.id, "no")
    assert await store.document("ann", queued.id) == queued
    assert await store.document("ann", document.id) == document


async def test_what_others_write_changes_neither_ranking_nor_scores(store: Store):
    library = await collect(store, "ann")
    await add(store, library, "secret.txt", TEXT)
    before = await ask(store, library, "which word opens the vault")

    other = await collect(store, "bob")
    for n in range(20):
        await add(store, other, f"{n}.txt", ["The word word word vault.", "Opens, opens, opens."])

    assert await ask(store, library, "which word opens the vault") == before


async def test_a_search_of_several_collections_keeps_to_those_that_are_seen(
    store: Store,
):
    theirs, own = await collect(store, "bob"), await collect(store, "ann")
    await add(store, theirs, "secret.txt", TEXT)
    document = await add(store, own, "secret.txt", TEXT)

    found = await store.search("ann", [theirs.id, own.id], text="walnut", vectors={}, limit=10)

    assert {passage.document_id for passage in found} == {document.id}
