"""Copies documents and their passages from SQLite's file to PostgreSQL."""

import asyncio
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from galley.db.moving import Moved, Tell, agreed, storable
from galley.stores import passages_postgres_writing as writing
from galley.stores.passages import Floats, Passage
from galley.stores.passages_ids import NUMBER_BITS
from galley.stores.passages_postgres_words import Stemmer, index, length_of
from galley.stores.passages_schema import connect, prepare, reading
from galley.stores.passages_terms import split

TABLES = (
    "collections", "documents", "document_versions", "passages", "passage_vectors", "passage_words",
)  # fmt: skip

# What is being written, or cleared away, is left behind.
_VERSIONS = """
versions v JOIN documents d ON d.id = v.document AND v.id IN (d.live, d.newest)
  JOIN collections c ON c.number = d.collection
"""
_COLLECTIONS = """
SELECT number, id, owner, name, description, metadata, model, dimensions, created_at
FROM collections ORDER BY number
"""
_DOCUMENTS = """
SELECT d.id, d.owner, d.collection, d.live, d.newest, d.created_at, d.updated_at
FROM documents d JOIN collections c ON c.number = d.collection ORDER BY d.id
"""
_TEXTS = f"""
SELECT v.id, v.collection, v.document, v.since, v.status, v.error, v.name, v.media_type,
  v.metadata, v.text_hash, v.characters, v.bytes, v.passages, d.updated_at, t.text
FROM {_VERSIONS} JOIN texts t ON t.version = v.id ORDER BY v.id
"""  # noqa: S608 - of constants
_RUNS = f"""
SELECT c.number, c.dimensions, r.id, r.vectors
FROM {_VERSIONS} JOIN runs r ON r.id >> {NUMBER_BITS} = v.id
WHERE v.id = d.live ORDER BY r.id
"""  # noqa: S608 - of constants
_MEASURED = {
    "collections": "SELECT count(*), sum(dimensions) FROM collections",
    "documents": "SELECT count(*), sum(d.live) FROM documents d"
    " JOIN collections c ON c.number = d.collection",
    "document_versions": "SELECT count(*), sum(v.characters), sum(v.bytes), sum(v.passages),"  # noqa: S608 - of constants
    f" sum(length(t.text)) FROM {_VERSIONS} JOIN texts t ON t.version = v.id",
    "passages": 'SELECT count(*), sum(p.start), sum(p."end"), sum(length(p.text))'  # noqa: S608 - of constants
    f" FROM {_VERSIONS} JOIN passages p ON p.id >> {NUMBER_BITS} = v.id WHERE v.id = d.live",
}
_ARRIVED = {
    "collections": "SELECT count(*), sum(dimensions) FROM collections",
    "documents": "SELECT count(*), sum(live) FROM documents",
    "document_versions": "SELECT count(*), sum(characters), sum(bytes), sum(passages),"
    " sum(length(text)) FROM document_versions",
    "passages": 'SELECT count(*), sum(p.start), sum(p."end"), sum(length(p.text))'
    " FROM passages p JOIN passage_vectors x USING (id)",
}
_NAMES = {
    "collections": ("dimensions",),
    "documents": ("live",),
    "document_versions": ("characters", "bytes", "passages", "text"),
    "passages": ("start", "end", "text"),
}


class _Run(NamedTuple):
    """Passages that were written together, the first of which has the id `begin`."""

    collection: int
    begin: int
    passages: Sequence[Passage]
    vectors: Floats
    words: Sequence[Sequence[str]]


async def move_passages(file: Path, target: AsyncConnection, tell: Tell) -> list[Moved]:
    """Copy all that a search can find, and what waits to be indexed.

    Raises:
        MovingError: a count or sum differs.
        SettingsError: the file is none of ours.
    """
    if not await asyncio.to_thread(file.is_file):
        return []
    await asyncio.to_thread(prepare, file)
    with closing(connect(file, reading=True)) as source, reading(source):
        before = await asyncio.to_thread(_measure, source)
        await _move_rows(source, target)
        await _move_runs(source, target, before["passages"].rows, tell)
    await _finish(target)
    found: list[Moved] = []
    for name, query in _ARRIVED.items():
        rows = await target.exec_driver_sql(query)
        found.append(agreed(before[name], _moved(name, rows.one())))
    return found


def _measure(source: sqlite3.Connection) -> dict[str, Moved]:
    return {
        name: _moved(name, source.execute(query).fetchone()) for name, query in _MEASURED.items()
    }


def _moved(name: str, row: Sequence[Any]) -> Moved:
    rows, *sums = (int(value or 0) for value in row)
    return Moved(name, rows, dict(zip(_NAMES[name], sums, strict=True)))


async def _move_rows(source: sqlite3.Connection, target: AsyncConnection) -> None:
    for query, insert in (
        (
            _COLLECTIONS,
            "INSERT INTO collections (number, id, owner, name, description, metadata, model,"
            " dimensions, created_at) VALUES ($1, $2, $3, $4, $5, $6::json, $7, $8, $9)",
        ),
        (_DOCUMENTS, "INSERT INTO documents VALUES ($1, $2, $3, $4, $5, $6, $7)"),
        (
            _TEXTS,
            "INSERT INTO document_versions (id, collection, document, since, status, error, name,"
            " media_type, metadata, text_hash, characters, bytes, passages, written_at, text)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::json, $10, $11, $12, $13, $14, $15)",
        ),
    ):
        cursor = await asyncio.to_thread(source.execute, query)
        while rows := await asyncio.to_thread(cursor.fetchmany, 200):
            moments = {
                at
                for at, column in enumerate(cursor.description)
                if column[0] in ("created_at", "updated_at")
            }
            await target.exec_driver_sql(
                insert,
                [
                    tuple(
                        datetime.fromisoformat(value) if at in moments else storable(value)
                        for at, value in enumerate(row)
                    )
                    for row in rows
                ],
            )


async def _move_runs(
    source: sqlite3.Connection, target: AsyncConnection, passages: int, tell: Tell
) -> None:
    stemmer, done = Stemmer(), 0
    runs = _runs(source)
    tell("passages", done, passages)
    while (run := await asyncio.to_thread(next, runs, None)) is not None:
        stems = await stemmer.stems(target, {w for words in run.words for w in words})
        found = await asyncio.to_thread(index, run.begin, run.words, stems)
        dimensions = run.vectors.shape[1]
        await writing.write(
            target, run.collection, dimensions, run.begin, run.passages, run.vectors, found
        )
        await target.exec_driver_sql(
            "UPDATE document_versions SET words = words + $2 WHERE id = $1",
            (run.begin >> NUMBER_BITS, sum(map(length_of, run.words))),
        )
        done += len(run.passages)
        tell("passages", done, passages)


def _runs(source: sqlite3.Connection) -> Generator[_Run]:
    for collection, dimensions, begin, blob in source.execute(_RUNS):
        vectors = np.frombuffer(blob, np.float32).reshape(-1, dimensions)
        rows = source.execute(
            'SELECT start, "end", text, context FROM passages WHERE id BETWEEN ? AND ? ORDER BY id',
            (begin, begin + len(vectors) - 1),
        )
        passages = [Passage(*row) for row in rows]
        words = [split(f"{passage.context} {passage.text}") for passage in passages]
        yield _Run(collection, begin, passages, vectors, words)


async def _finish(target: AsyncConnection) -> None:
    """Work out what depends on all that has come, and make the indexes of vectors."""
    await target.exec_driver_sql(
        "UPDATE collections c SET passages = s.passages, words = s.words FROM ("
        "  SELECT d.collection, sum(v.passages) AS passages, sum(v.words) AS words"
        "  FROM documents d JOIN document_versions v ON v.id = d.live GROUP BY d.collection"
        ") s WHERE s.collection = c.number"
    )
    for table, column in (("collections", "number"), ("document_versions", "id")):
        await target.exec_driver_sql(
            f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), max({column}))"  # noqa: S608 - of constants
            f" FROM {table} HAVING count(*) > 0"
        )
    sizes = await target.exec_driver_sql("SELECT DISTINCT dimensions FROM collections")
    for dimensions in sizes.scalars().all():
        await writing.index_dimensions(target, dimensions)
