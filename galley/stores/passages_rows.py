"""Queries on the passages' file. Every one of them names the owner."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from galley.db.cursors import Page, read_cursor
from galley.stores.passages import (
    EVERYONE,
    Collection,
    Combine,
    Compare,
    Document,
    Draft,
    Filter,
    Only,
    Status,
    Value,
)

T = TypeVar("T")

_COLLECTION = """
SELECT c.id, c.owner, c.name, c.description, c.metadata, c.model, c.dimensions,
  (SELECT count(*) FROM documents d WHERE d.collection = c.number),
  (SELECT coalesce(sum(v.passages), 0) FROM documents d JOIN versions v ON v.id = d.live
    WHERE d.collection = c.number),
  c.created_at
FROM collections c
"""
_DOCUMENT = """
SELECT d.id, c.id, v.name, v.media_type, v.metadata, v.status, v.error, v.text_hash, v.characters,
  v.bytes, coalesce(l.passages, 0), d.created_at, d.updated_at
FROM documents d JOIN collections c ON c.number = d.collection JOIN versions v ON v.id = d.newest
  LEFT JOIN versions l ON l.id = d.live
"""


def list_collections(
    connection: sqlite3.Connection, owner: str, *, after: str | None, limit: int
) -> Page[Collection]:
    """The owner's and everyone's."""
    rows = connection.execute(
        f"{_COLLECTION} WHERE c.owner IN (?, ?) AND c.id > ? ORDER BY c.id LIMIT ?",
        (owner, EVERYONE, read_cursor(after) or "", limit + 1),
    )
    return _page([_collection(row) for row in rows], limit)


def find_collection(connection: sqlite3.Connection, owner: str, name: str) -> Collection | None:
    """One by its id or name; the owner's own before everyone's, an id before a name."""
    row = connection.execute(
        f"{_COLLECTION} WHERE c.owner IN (?, ?) AND (c.id = ? OR c.name = ?)"
        " ORDER BY c.owner = ?, c.id != ? LIMIT 1",
        (owner, EVERYONE, name, name, EVERYONE, name),
    ).fetchone()
    return _collection(row) if row else None


def collection_numbers(connection: sqlite3.Connection) -> list[int]:
    """Return the numbers of all collections, whoever has them; for what is kept beside them."""
    return [number for (number,) in connection.execute("SELECT number FROM collections")]


def list_documents(
    connection: sqlite3.Connection,
    owner: str,
    *,
    collection_id: str | None,
    name: str | None,
    status: Status | None,
    after: str | None,
    limit: int,
) -> Page[Document]:
    """Documents of a collection that the owner may read, or all of their own."""
    conditions, values = ["d.id > ?"], [read_cursor(after) or ""]
    if collection_id is None:
        conditions, values = [*conditions, "d.owner = ?"], [*values, owner]
    else:
        conditions = [*conditions, "d.owner IN (?, ?)", "c.id = ?"]
        values = [*values, owner, EVERYONE, collection_id]
    for column, value in (("v.name", name), ("v.status", status)):
        if value is not None:
            conditions, values = [*conditions, f"{column} = ?"], [*values, value]
    rows = connection.execute(
        f"{_DOCUMENT} WHERE {' AND '.join(conditions)} ORDER BY d.id LIMIT ?",
        (*values, limit + 1),
    )
    return _page([_document(row) for row in rows], limit)


def find_document(connection: sqlite3.Connection, owner: str, document_id: str) -> Document | None:
    """One that the owner may read."""
    row = connection.execute(
        f"{_DOCUMENT} WHERE d.id = ? AND d.owner IN (?, ?)", (document_id, owner, EVERYONE)
    ).fetchone()
    return _document(row) if row else None


def find_draft(connection: sqlite3.Connection, owner: str, document_id: str) -> Draft | None:
    """The newest version of a document, with its text."""
    row = connection.execute(
        "SELECT v.name, t.text, v.media_type, v.metadata, v.bytes FROM documents d"
        " JOIN versions v ON v.id = d.newest JOIN texts t ON t.version = v.id"
        " WHERE d.id = ? AND d.owner IN (?, ?)",
        (document_id, owner, EVERYONE),
    ).fetchone()
    if row is None:
        return None
    name, text, media_type, metadata, size = row
    return Draft(name, text, media_type, json.loads(metadata), size)


def chosen(connection: sqlite3.Connection, owner: str, collection: int, only: Only) -> list[int]:
    """Return the versions that are shown of those documents that are asked for."""
    conditions, values = ["d.collection = ?", "d.owner IN (?, ?)"], [collection, owner, EVERYONE]
    if only.document_ids is not None:
        conditions.append("d.id IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(list(only.document_ids)))
    if only.name is not None:
        conditions.append("v.name = ?")
        values.append(only.name)
    if only.metadata is not None:
        conditions.append(_condition(only.metadata, values))
    rows = connection.execute(
        "SELECT v.id FROM documents d JOIN versions v ON v.id = d.live"  # noqa: S608 - of constants; values are bound
        f" WHERE {' AND '.join(conditions)}",
        values,
    )
    return [version for (version,) in rows]


_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _condition(filter_: Filter, values: list[Any]) -> str:
    """Return a filter as SQL, and add what it compares with to `values`."""
    if isinstance(filter_, Combine):
        parts = [_condition(part, values) for part in filter_.parts]
        return f"({f' {filter_.how.upper()} '.join(parts)})" if parts else "1"
    return _comparison(filter_, values)


def _comparison(compare: Compare, values: list[Any]) -> str:
    given = compare.value
    wanted: Sequence[Value] = [given] if isinstance(given, str | float | int) else given
    values.append(compare.key)
    tests = [_test(_OPERATORS.get(compare.op, "="), value, values) for value in wanted]
    found = (
        "EXISTS (SELECT 1 FROM json_each(v.metadata) j WHERE j.key = ?"  # noqa: S608 - of constants; values are bound
        f" AND ({' OR '.join(tests) or '0'}))"
    )
    return f"NOT {found}" if compare.op in ("ne", "nin") else found


def _test(operator: str, value: Value, values: list[Any]) -> str:
    """Compare like with like: SQLite has 1 for true, and sorts numbers before texts."""
    if isinstance(value, bool):
        kinds = "('true', 'false')"
    else:
        kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
    values.append(value)
    return f"(j.type IN {kinds} AND j.value {operator} ?)"


def _page(rows: Sequence[T], limit: int) -> Page[T]:
    return Page(rows[:limit], len(rows) > limit)


def _collection(row: Sequence[Any]) -> Collection:
    id_, owner, name, description, metadata, *rest, created_at = row
    return Collection(
        id_, owner, name, description, json.loads(metadata), *rest,
        created_at=datetime.fromisoformat(created_at),
    )  # fmt: skip


def _document(row: Sequence[Any]) -> Document:
    id_, collection_id, name, media_type, metadata, *rest, created_at, updated_at = row
    return Document(
        id_, collection_id, name, media_type, json.loads(metadata), *rest,
        created_at=datetime.fromisoformat(created_at),
        updated_at=datetime.fromisoformat(updated_at),
    )  # fmt: skip
