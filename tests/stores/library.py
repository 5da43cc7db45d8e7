"""Documents for stores of passages: sentences, and vectors that are near where words are shared."""

import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from galley.db.session import open_database
from galley.stores import passages_postgres, passages_sqlite
from galley.stores.passages import (
    Collection,
    Document,
    Draft,
    Floats,
    Found,
    NewCollection,
    Only,
    Passage,
    Passages,
    Slice,
)
from galley.stores.passages_postgres import PostgresPassages
from galley.stores.passages_sqlite import SqlitePassages

Store = SqlitePassages | PostgresPassages

MODEL = "bag-of-words"
DIMENSIONS = 64


@asynccontextmanager
async def open_store(place: str) -> AsyncGenerator[Store]:
    """Open a store where `place` says: the URL of a PostgreSQL at the newest schema, or a file."""
    if "://" not in place:
        path = Path(place)
        async with passages_sqlite.open_passages(path, memory_bytes=10**8) as passages:
            yield passages
        return
    async with (
        open_database(place) as database,
        passages_postgres.open_passages(database) as passages,
    ):
        yield passages


def vector(text: str) -> Floats:
    """A unit vector of the words in `text`, each at a place of its own."""
    row = np.full(DIMENSIONS, 1e-3, np.float32)
    for word in text.lower().split():
        row[zlib.crc32(word.strip(".,?").encode(errors="replace")) % DIMENSIONS] += 1
    return (row / np.linalg.norm(row)).astype(np.float32)


def draft(
    name: str, sentences: Sequence[str], metadata: Mapping[str, object] | None = None
) -> Draft:
    return Draft(name, " ".join(sentences), metadata=metadata or {})


def passages(sentences: Sequence[str]) -> Slice:
    """Each sentence is a passage of the text that `draft` makes of them."""
    found: list[Passage] = []
    begin = 0
    for sentence in sentences:
        found.append(Passage(begin, begin + len(sentence), sentence))
        begin += len(sentence) + 1
    rows = [vector(sentence) for sentence in sentences]
    return Slice(found, np.array(rows, np.float32).reshape(-1, DIMENSIONS))


async def slices(sentences: Sequence[str], at_once: int = 2) -> AsyncGenerator[Slice]:
    """The passages of a text, a few at a time."""
    whole = passages(sentences)
    for at in range(0, len(sentences), at_once):
        part = slice(at, at + at_once)
        yield Slice(whole.passages[part], whole.vectors[part])


async def collect(store: Passages, owner: str, name: str = "library") -> Collection:
    return await store.create_collection(owner, NewCollection(name, MODEL, DIMENSIONS))


async def add(
    store: Passages,
    collection: Collection,
    name: str,
    sentences: Sequence[str],
    *,
    document_id: str | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Document:
    return await store.put(
        collection.owner, collection.id, draft(name, sentences, metadata), slices(sentences),
        document_id=document_id,
    )  # fmt: skip


async def ask(
    store: Passages,
    collection: Collection,
    text: str,
    *,
    owner: str | None = None,
    limit: int = 10,
    only: Only | None = None,
) -> list[Found]:
    """Search as the collection's owner, or as another one."""
    return await store.search(
        owner or collection.owner, [collection.id], text=text, vectors={MODEL: vector(text)},
        limit=limit, only=only,
    )  # fmt: skip
