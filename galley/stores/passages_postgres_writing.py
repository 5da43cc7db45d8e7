"""What changes PostgreSQL's tables of passages: each function is a part of one transaction.

Whatever changes which passages are shown locks their collection first, so that of two servers at
one document each sees what the other has done.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from galley.core.errors import NotFoundError
from galley.db.advisory_locks import INDEXING
from galley.db.tables import new_id
from galley.stores.passages import Draft, Floats, NewCollection, Passage
from galley.stores.passages_drafts import (
    Staged,
    collection_exists,
    described,
    given_up,
    no_collection,
    no_document,
)
from galley.stores.passages_ids import NUMBER_BITS
from galley.stores.passages_postgres_rows import Values, fetch, find_draft
from galley.stores.passages_postgres_tidy import discard

MOST_INDEXED_DIMENSIONS = 4_000
"""Of vectors of half precision, in an index of pgvector's."""


async def add_collection(
    connection: AsyncConnection, owner: str, new: NewCollection, now: datetime
) -> None:
    """Make a collection.

    Raises:
        ConflictError: there is one of that name.
    """
    await index_dimensions(connection, new.dimensions)
    made = await connection.exec_driver_sql(
        "INSERT INTO collections"
        " (id, owner, name, description, metadata, model, dimensions, created_at)"
        " VALUES ($1, $2, $3, $4, $5::json, $6, $7, $8)"
        " ON CONFLICT (owner, name) DO NOTHING RETURNING number",
        (
            new_id(), owner, new.name, new.description, json.dumps(dict(new.metadata)), new.model,
            new.dimensions, now,
        ),
    )  # fmt: skip
    if made.first() is None:
        raise collection_exists(new)


async def index_dimensions(connection: AsyncConnection, dimensions: int) -> None:
    """Have vectors of so many dimensions indexed; HNSW is made for one number of them."""
    name = f"passage_vectors_{dimensions:d}"
    known = await connection.exec_driver_sql("SELECT to_regclass($1::text)", (name,))
    if dimensions > MOST_INDEXED_DIMENSIONS or known.scalar() is not None:
        return
    await connection.exec_driver_sql("SELECT pg_advisory_xact_lock($1::bigint)", (INDEXING,))
    await connection.exec_driver_sql(
        f"CREATE INDEX IF NOT EXISTS {name} ON passage_vectors"
        f" USING hnsw ((vector::halfvec({dimensions:d})) halfvec_ip_ops)"
        f" WHERE dimensions = {dimensions:d}"
    )


async def drop_collection(connection: AsyncConnection, owner: str, collection_id: str) -> bool:
    """Take a collection and its documents from view; their passages are left to `tidy`."""
    values = Values()
    rows = await fetch(
        connection,
        f"DELETE FROM collections WHERE id = {values(collection_id)}"  # noqa: S608 - values are bound
        f" AND owner = {values(owner)} RETURNING number",
        values,
    )
    for (number,) in rows:
        # Who is writing a version finds out when it is to be shown.
        await connection.exec_driver_sql(
            "UPDATE document_versions SET status = 'discarded'"
            " WHERE collection = $1 AND status <> 'staged'",
            (number,),
        )
        await connection.exec_driver_sql("DELETE FROM documents WHERE collection = $1", (number,))
    return bool(rows)


async def add_version(
    connection: AsyncConnection,
    owner: str,
    collection_id: str,
    draft: Draft,
    now: datetime,
    *,
    document_id: str | None,
    status: str = "staged",
    since: int | None = None,
) -> Staged:
    """Write a version of a document without its passages.

    Raises:
        NotFoundError: no such collection of this owner, or the document is elsewhere.
    """
    found = await connection.exec_driver_sql(
        "SELECT number, dimensions FROM collections WHERE id = $1 AND owner = $2",
        (collection_id, owner),
    )
    if (place := found.first()) is None:
        raise no_collection()
    known = await connection.exec_driver_sql(
        "SELECT owner, collection FROM documents WHERE id = $1", (document_id,)
    )
    before = known.first()
    if before is not None and tuple(before) != (owner, place.number):
        raise no_document()
    document_id = document_id or new_id()
    version = await connection.exec_driver_sql(
        "INSERT INTO document_versions (collection, document, since, status, name, media_type,"
        " metadata, text_hash, characters, bytes, written_at, text)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7::json, $8, $9, $10, $11, $12) RETURNING id",
        (place.number, document_id, since, status, *described(draft), now, draft.text),
    )
    id_: int = version.scalar_one()
    return Staged(
        version=id_, owner=owner, collection=place.number, dimensions=place.dimensions,
        document_id=document_id, since=since or id_, replaces=before is not None,
    )  # fmt: skip


async def queue(
    connection: AsyncConnection,
    owner: str,
    collection_id: str,
    draft: Draft,
    now: datetime,
    *,
    document_id: str | None,
) -> Staged:
    """Write a version that is the newest of its document at once, and is indexed later.

    Raises:
        NotFoundError: as for `add_version`.
    """
    await connection.exec_driver_sql(
        "SELECT FROM collections WHERE id = $1 AND owner = $2 FOR UPDATE", (collection_id, owner)
    )
    queued = await add_version(
        connection, owner, collection_id, draft, now, document_id=document_id, status="queued"
    )
    before = await connection.exec_driver_sql(
        "SELECT newest FROM documents WHERE id = $1 AND newest IS DISTINCT FROM live",
        (queued.document_id,),
    )
    await discard(connection, *before.scalars())
    await _place(connection, queued, None, queued.version, now)
    return queued


async def take_up(
    connection: AsyncConnection, owner: str, document_id: str, now: datetime
) -> Staged | None:
    """Begin a version with the text of the one that is queued; None when none is.

    Raises:
        NotFoundError: no such document of this owner.
    """
    values = Values()
    rows = await fetch(
        connection,
        "SELECT v.id, v.status, c.id FROM documents d JOIN document_versions v ON v.id = d.newest"  # noqa: S608 - values are bound
        f" JOIN collections c ON c.number = d.collection WHERE d.id = {values(document_id)}"
        f" AND d.owner = {values(owner)}",
        values,
    )
    draft = await find_draft(connection, owner, document_id)
    if not rows or draft is None:
        raise no_document()
    version, status, collection_id = rows[0]
    if status != "queued":
        return None
    return await add_version(
        connection, owner, collection_id, draft, now, document_id=document_id, since=version
    )


async def stage(
    connection: AsyncConnection,
    staged: Staged,
    first: int,
    passages: Sequence[Passage],
    vectors: Floats,
    words: Mapping[str, bytes],
    now: datetime,
) -> None:
    """Write passages of a version, from number `first` on.

    Raises:
        ConflictError: another server took the version for the leftover of a crash.
    """
    known = await connection.exec_driver_sql(
        "UPDATE document_versions SET written_at = $2 WHERE id = $1 AND status = 'staged'",
        (staged.version, now),
    )
    if not known.rowcount:
        raise given_up()
    if passages:
        begin = (staged.version << NUMBER_BITS) + first
        await write(
            connection, staged.collection, staged.dimensions, begin, passages, vectors, words
        )


async def write(
    connection: AsyncConnection,
    collection: int,
    dimensions: int,
    begin: int,
    passages: Sequence[Passage],
    vectors: Floats,
    words: Mapping[str, bytes],
) -> None:
    """Write passages, the first of which has the id `begin`."""
    await connection.exec_driver_sql(
        "INSERT INTO passages VALUES ($1, $2, $3, $4, $5)",
        [(begin + n, p.start, p.end, p.text, p.context) for n, p in enumerate(passages)],
    )
    await connection.exec_driver_sql(
        "INSERT INTO passage_vectors VALUES ($1, $2, $3, $4::real[]::vector)",
        [(begin + n, collection, dimensions, vector) for n, vector in enumerate(vectors.tolist())],
    )
    await connection.exec_driver_sql(
        "INSERT INTO passage_words"
        " SELECT $1::bigint, w.term, $2::bigint, w.hits"
        " FROM unnest($3::text[], $4::bytea[]) w (term, hits)",
        (collection, begin, list(words), list(words.values())),
    )


async def show(
    connection: AsyncConnection, staged: Staged, passages: int, words: int, now: datetime
) -> None:
    """Put a version in the place of the one before, unless a newer text has come first.

    Args:
        words: in all its passages.
    Raises:
        NotFoundError: the collection or the document was deleted meanwhile.
        ConflictError: as for `stage`.
    """
    if not await _lock(connection, staged.owner, staged.collection):
        raise no_collection()
    found = await connection.exec_driver_sql(
        "SELECT d.live, d.newest, coalesce(l.since, l.id, 0), coalesce(n.since, n.id)"
        " FROM documents d JOIN document_versions n ON n.id = d.newest"
        " LEFT JOIN document_versions l ON l.id = d.live"
        " WHERE d.id = $1 AND d.owner = $2 AND d.collection = $3",
        (staged.document_id, staged.owner, staged.collection),
    )
    rows = found.all()
    if not rows and staged.replaces:
        raise NotFoundError("The document was deleted meanwhile.", code="document_not_found")
    before = tuple(rows[0]) if rows else (None, staged.version, 0, 0)
    live, newest, live_since, newest_since = before
    if live_since > staged.since:
        await discard(connection, staged.version)
        return
    newest_now = staged.version if newest_since <= staged.since else newest
    changed = await connection.exec_driver_sql(
        "UPDATE document_versions SET status = 'indexed', passages = $2, words = $3"
        " WHERE id = $1 AND status = 'staged'",
        (staged.version, passages, words),
    )
    if not changed.rowcount:
        raise given_up()
    await _place(connection, staged, staged.version, newest_now, now)
    await _count(connection, staged.collection, shown=staged.version, hidden=live)
    await discard(connection, live, newest if newest != newest_now else None)


async def drop_document(connection: AsyncConnection, owner: str, document_id: str) -> bool:
    """Take a document from view; its passages are left to `tidy`."""
    collection = await _lock_of(connection, owner, document_id)
    values = Values()
    rows = await fetch(
        connection,
        f"DELETE FROM documents WHERE id = {values(document_id)} AND owner = {values(owner)}"  # noqa: S608 - values are bound
        " RETURNING live, newest",
        values,
    )
    if collection is None or not rows:
        return False
    live, newest = rows[0]
    await _count(connection, collection, shown=None, hidden=live)
    await discard(connection, live, newest)
    return True


async def fail(
    connection: AsyncConnection, owner: str, document_id: str, reason: str, now: datetime
) -> None:
    """Say of the version that is queued why it cannot be indexed."""
    await _lock_of(connection, owner, document_id)
    values = Values()
    mine = f"id = {values(document_id)} AND owner = {values(owner)}"
    await fetch(
        connection,
        "WITH failed AS (UPDATE document_versions SET status = 'failed',"  # noqa: S608 - values are bound
        f" error = {values(reason)} WHERE status = 'queued'"
        f" AND id = (SELECT newest FROM documents WHERE {mine}) RETURNING document)"
        f" UPDATE documents SET updated_at = {values(now, 'timestamptz')}"
        f" WHERE {mine} AND id IN (SELECT document FROM failed) RETURNING id",
        values,
    )


async def _lock(connection: AsyncConnection, owner: str, collection: int) -> bool:
    found = await connection.exec_driver_sql(
        "SELECT number FROM collections WHERE number = $1 AND owner = $2 FOR UPDATE",
        (collection, owner),
    )
    return found.first() is not None


async def _lock_of(connection: AsyncConnection, owner: str, document_id: str) -> int | None:
    """Lock the collection of a document; returns its number."""
    values = Values()
    rows = await fetch(
        connection,
        "SELECT c.number FROM documents d JOIN collections c ON c.number = d.collection"  # noqa: S608 - values are bound
        f" WHERE d.id = {values(document_id)} AND d.owner = {values(owner)} FOR UPDATE OF c",
        values,
    )
    return rows[0][0] if rows else None


async def _place(
    connection: AsyncConnection, staged: Staged, live: int | None, newest: int, now: datetime
) -> None:
    """Say which versions a document has; `live` None leaves the one that is shown."""
    made = await connection.exec_driver_sql(
        "INSERT INTO documents AS d (id, owner, collection, live, newest, created_at, updated_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (id) DO UPDATE"
        " SET live = coalesce(excluded.live, d.live), newest = excluded.newest,"
        " updated_at = excluded.updated_at"
        " WHERE d.owner = excluded.owner AND d.collection = excluded.collection RETURNING id",
        (staged.document_id, staged.owner, staged.collection, live, newest, now),
    )
    if made.first() is None:
        raise no_document()


async def _count(
    connection: AsyncConnection, collection: int, *, shown: int | None, hidden: int | None
) -> None:
    """Bring a collection's sums to what is shown of it now."""
    await connection.exec_driver_sql(
        "UPDATE collections c SET passages = c.passages + s.passages, words = c.words + s.words"
        " FROM (SELECT coalesce(sum(passages * sign), 0) AS passages,"
        "   coalesce(sum(words * sign), 0) AS words"
        "   FROM (VALUES ($2::bigint, 1), ($3::bigint, -1)) t (id, sign)"
        "   JOIN document_versions USING (id)) s WHERE c.number = $1",
        (collection, shown, hidden),
    )
