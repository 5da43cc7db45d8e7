"""Queries on PostgreSQL's tables of passages. Every one of them names the owner."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

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
SELECT c.id, c.owner, c.name, c.description, c.metadata::text, c.model, c.dimensions,
  (SELECT count(*) FROM documents d WHERE d.collection = c.number), c.passages, c.created_at
FROM collections c
"""
_DOCUMENT = """
SELECT d.id, c.id, v.name, v.media_type, v.metadata::text, v.status, v.error, v.text_hash,
  v.characters, v.bytes, coalesce(l.passages, 0), d.created_at, d.updated_at
FROM documents d JOIN collections c ON c.number = d.collection
  JOIN document_versions v ON v.id = d.newest LEFT JOIN document_versions l ON l.id = d.live
"""


class Values:
    """What a statement is given: `$1`, `$2` and so on, in the order in which it is asked for."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def __call__(self, value: Any, kind: str = "text") -> str:
        """Return the place of `value`, as that type."""
        self.given.append(_storable(value) if isinstance(value, str) else value)
        return f"${len(self.given)}::{kind}"

    def seen_by(self, owner: str) -> str:
        """Return a list of the owners whose things `owner` may read."""
        return f"({self(owner)}, {self(EVERYONE)})"


def _storable(value: str) -> str:
    """Return what PostgreSQL can be asked for: it has no text with zeros or lone surrogates."""
    return value.replace("\0", "\ufffd").encode(errors="replace").decode()


async def fetch(connection: AsyncConnection, statement: str, values: Values) -> Sequence[Any]:
    """Run a statement; returns its rows."""
    answer = await connection.exec_driver_sql(statement, tuple(values.given))
    return answer.fetchall()


async def list_collections(
    connection: AsyncConnection, owner: str, *, after: str | None, limit: int
) -> Page[Collection]:
    """The owner's and everyone's."""
    values = Values()
    statement = (
        f"{_COLLECTION} WHERE c.owner IN {values.seen_by(owner)}"
        f" AND c.id > {values(read_cursor(after) or '')} ORDER BY c.id"
        f" LIMIT {values(limit + 1, 'bigint')}"
    )
    rows = await fetch(connection, statement, values)
    return _page([_collection(row) for row in rows], limit)


async def find_collection(connection: AsyncConnection, owner: str, name: str) -> Collection | None:
    """One by its id or name; the owner's own before everyone's, an id before a name."""
    values = Values()
    wanted = values(name)
    statement = (
        f"{_COLLECTION} WHERE c.owner IN {values.seen_by(owner)}"
        f" AND (c.id = {wanted} OR c.name = {wanted})"
        f" ORDER BY c.owner = {values(EVERYONE)}, c.id <> {wanted} LIMIT 1"
    )
    rows = await fetch(connection, statement, values)
    return _collection(rows[0]) if rows else None


async def list_documents(
    connection: AsyncConnection,
    owner: str,
    *,
    collection_id: str | None,
    name: str | None,
    status: Status | None,
    after: str | None,
    limit: int,
) -> Page[Document]:
    """Documents of a collection that the owner may read, or all of their own."""
    values = Values()
    conditions = [f"d.id > {values(read_cursor(after) or '')}"]
    if collection_id is None:
        conditions.append(f"d.owner = {values(owner)}")
    else:
        conditions.append(f"d.owner IN {values.seen_by(owner)} AND c.id = {values(collection_id)}")
    for column, value in (("v.name", name), ("v.status", status)):
        if value is not None:
            conditions.append(f"{column} = {values(value)}")
    statement = (
        f"{_DOCUMENT} WHERE {' AND '.join(conditions)} ORDER BY d.id"
        f" LIMIT {values(limit + 1, 'bigint')}"
    )
    rows = await fetch(connection, statement, values)
    return _page([_document(row) for row in rows], limit)


async def find_document(
    connection: AsyncConnection, owner: str, document_id: str
) -> Document | None:
    """One that the owner may read."""
    values = Values()
    statement = (
        f"{_DOCUMENT} WHERE d.id = {values(document_id)} AND d.owner IN {values.seen_by(owner)}"
    )
    rows = await fetch(connection, statement, values)
    return _document(rows[0]) if rows else None


async def find_draft(connection: AsyncConnection, owner: str, document_id: str) -> Draft | None:
    """The newest version of a document, with its text."""
    values = Values()
    statement = (
        "SELECT v.name, v.text, v.media_type, v.metadata::text, v.bytes FROM documents d"  # noqa: S608 - of constants; values are bound
        f" JOIN document_versions v ON v.id = d.newest WHERE d.id = {values(document_id)}"
        f" AND d.owner IN {values.seen_by(owner)}"
    )
    rows = await fetch(connection, statement, values)
    if not rows:
        return None
    name, text, media_type, metadata, size = rows[0]
    return Draft(name, text, media_type, json.loads(metadata), size)


async def chosen(
    connection: AsyncConnection, owner: str, collections: Sequence[int], only: Only
) -> list[int]:
    """Return the versions that are shown of those documents that are asked for."""
    values = Values()
    conditions = [
        f"d.collection = ANY({values(list(collections), 'bigint[]')})",
        f"d.owner IN {values.seen_by(owner)}",
    ]
    if only.document_ids is not None:
        ids = [_storable(id_) for id_ in only.document_ids]
        conditions.append(f"d.id = ANY({values(ids, 'text[]')})")
    if only.name is not None:
        conditions.append(f"v.name = {values(only.name)}")
    if only.metadata is not None:
        conditions.append(_condition(only.metadata, values))
    statement = (
        "SELECT v.id FROM documents d JOIN document_versions v ON v.id = d.live"  # noqa: S608 - of constants; values are bound
        f" WHERE {' AND '.join(conditions)}"
    )
    return [row[0] for row in await fetch(connection, statement, values)]


_OPERATORS: Mapping[str, str] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _condition(filter_: Filter, values: Values) -> str:
    """Return a filter as SQL, and add what it compares with to `values`."""
    if isinstance(filter_, Combine):
        parts = [_condition(part, values) for part in filter_.parts]
        return f"({f' {filter_.how.upper()} '.join(parts)})" if parts else "true"
    return _comparison(filter_, values)


def _comparison(compare: Compare, values: Values) -> str:
    given = compare.value
    wanted: Sequence[Value] = [given] if isinstance(given, str | float | int) else given
    if not wanted:
        return "true" if compare.op == "nin" else "false"
    key, operator = values(compare.key), _OPERATORS.get(compare.op, "=")
    found = " OR ".join(_test(key, operator, value, values) for value in wanted)
    return f"NOT ({found})" if compare.op in ("ne", "nin") else f"({found})"


def _test(key: str, operator: str, value: Value, values: Values) -> str:
    """Compare like with like; what is of another kind is not even read as this one."""
    if isinstance(value, bool):
        kind, read, place = "boolean", "::boolean", values(value, "boolean")
    elif isinstance(value, str):
        kind, read, place = "string", ' COLLATE "C"', values(value)
    else:
        kind, read = "number", "::double precision"
        place = values(float(value), "double precision")
    return (
        f"CASE json_typeof(v.metadata -> {key}) WHEN '{kind}'"
        f" THEN (v.metadata ->> {key}){read} {operator} {place} ELSE false END"
    )


def _page(rows: Sequence[T], limit: int) -> Page[T]:
    return Page(rows[:limit], len(rows) > limit)


def _collection(row: Sequence[Any]) -> Collection:
    id_, owner, name, description, metadata, *rest = row
    return Collection(id_, owner, name, description, json.loads(metadata), *rest)


def _document(row: Sequence[Any]) -> Document:
    id_, collection_id, name, media_type, metadata, *rest = row
    return Document(id_, collection_id, name, media_type, json.loads(metadata), *rest)
