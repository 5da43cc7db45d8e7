"""What changes the passages' file, in steps of a few milliseconds: each is one transaction."""

import json
import sqlite3
from collections.abc import Sequence
from itertools import chain

import numpy as np

from galley.core.errors import NotFoundError
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
from galley.stores.passages_rows import find_draft
from galley.stores.passages_terms import split
from galley.stores.passages_tidy import discard
from galley.stores.passages_words import indexed


def add_collection(
    connection: sqlite3.Connection, owner: str, new: NewCollection, now: str
) -> None:
    """Make a collection.

    Raises:
        ConflictError: there is one of that name.
    """
    try:
        connection.execute(
            "INSERT INTO collections"
            " (id, owner, name, description, metadata, model, dimensions, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                new_id(), owner, new.name, new.description, json.dumps(dict(new.metadata)),
                new.model, new.dimensions, now,
            ),
        )  # fmt: skip
    except sqlite3.IntegrityError:
        raise collection_exists(new) from None


def drop_collection(
    connection: sqlite3.Connection, owner: str, collection_id: str
) -> Sequence[int]:
    """Take a collection from view; its documents are left to `tidy`."""
    numbers = [
        number
        for (number,) in connection.execute(
            "DELETE FROM collections WHERE id = ? AND owner = ? RETURNING number",
            (collection_id, owner),
        ).fetchall()
    ]
    connection.executemany("INSERT INTO trash VALUES ('collection', ?)", zip(numbers, strict=True))
    return numbers


def add_version(
    connection: sqlite3.Connection,
    owner: str,
    collection_id: str,
    draft: Draft,
    *,
    document_id: str | None,
    status: str = "staged",
    since: int | None = None,
) -> Staged:
    """Write a version of a document without its passages.

    Raises:
        NotFoundError: no such collection of this owner, or the document is elsewhere.
    """
    found = connection.execute(
        "SELECT number, dimensions FROM collections WHERE id = ? AND owner = ?",
        (collection_id, owner),
    ).fetchone()
    known = connection.execute(
        "SELECT owner, collection FROM documents WHERE id = ?", (document_id,)
    ).fetchone()
    if found is None:
        raise no_collection()
    collection, dimensions = found
    if known not in (None, (owner, collection)):
        raise no_document()
    document_id = document_id or new_id()
    (version,) = connection.execute(
        "INSERT INTO versions (collection, document, since, status, name, media_type, metadata,"
        " text_hash, characters, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (collection, document_id, since, status, *described(draft)),
    ).fetchone()
    connection.execute("INSERT INTO texts VALUES (?, ?)", (version, draft.text))
    return Staged(
        version=version, owner=owner, collection=collection, dimensions=dimensions,
        document_id=document_id, since=since or version, replaces=known is not None,
    )  # fmt: skip


def queue(
    connection: sqlite3.Connection,
    owner: str,
    collection_id: str,
    draft: Draft,
    now: str,
    *,
    document_id: str | None,
) -> Staged:
    """Write a version that is the newest of its document at once, and is indexed later.

    Raises:
        NotFoundError: as for `add_version`.
    """
    queued = add_version(
        connection, owner, collection_id, draft, document_id=document_id, status="queued"
    )
    before = connection.execute(
        "SELECT newest FROM documents WHERE id = ? AND newest IS NOT live", (queued.document_id,)
    ).fetchall()
    discard(connection, *chain.from_iterable(before))
    connection.execute(
        "INSERT INTO documents (id, owner, collection, newest, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE"
        " SET newest = excluded.newest, updated_at = excluded.updated_at",
        (queued.document_id, owner, queued.collection, queued.version, now, now),
    )
    return queued


def take_up(connection: sqlite3.Connection, owner: str, document_id: str) -> Staged | None:
    """Begin a version with the text of the one that is queued; None when none is.

    Raises:
        NotFoundError: no such document of this owner.
    """
    row = connection.execute(
        "SELECT v.id, v.status, c.id FROM documents d JOIN versions v ON v.id = d.newest"
        " JOIN collections c ON c.number = d.collection WHERE d.id = ? AND d.owner = ?",
        (document_id, owner),
    ).fetchone()
    draft = find_draft(connection, owner, document_id)
    if row is None or draft is None:
        raise no_document()
    version, status, collection_id = row
    if status != "queued":
        return None
    return add_version(
        connection, owner, collection_id, draft, document_id=document_id, since=version
    )


def stage(
    connection: sqlite3.Connection,
    staged: Staged,
    first: int,
    passages: Sequence[Passage],
    vectors: Floats,
) -> None:
    """Write passages of a version, from number `first` on.

    Raises:
        ConflictError: another server took the version for the leftover of a crash.
    """
    known = connection.execute(
        "SELECT 1 FROM versions WHERE id = ? AND status = 'staged'", (staged.version,)
    ).fetchone()
    if known is None:
        raise given_up()
    begin = (staged.version << NUMBER_BITS) + first
    words = [split(f"{passage.context} {passage.text}") for passage in passages]
    connection.executemany(
        "INSERT INTO passages VALUES (?, ?, ?, ?, ?)",
        ((begin + n, p.start, p.end, p.text, p.context) for n, p in enumerate(passages)),
    )
    connection.executemany(
        "INSERT INTO words (rowid, body) VALUES (?, ?)",
        ((begin + n, indexed(staged.collection, found)) for n, found in enumerate(words)),
    )
    lengths = np.array([min(len(found), 65_535) for found in words], np.uint16)
    connection.execute(
        "INSERT INTO runs VALUES (?, ?, ?)", (begin, vectors.tobytes(), lengths.tobytes())
    )


def show(connection: sqlite3.Connection, staged: Staged, passages: int, now: str) -> None:
    """Put a version in the place of the one before, unless a newer text has come first.

    Raises:
        NotFoundError: the collection or the document was deleted meanwhile.
    """
    row = connection.execute(
        "SELECT d.live, d.newest, coalesce(l.since, l.id, 0), coalesce(n.since, n.id)"
        " FROM documents d JOIN versions n ON n.id = d.newest LEFT JOIN versions l ON l.id = d.live"
        " WHERE d.id = ? AND d.owner = ? AND d.collection = ?",
        (staged.document_id, staged.owner, staged.collection),
    ).fetchone()
    if row is None and staged.replaces:
        raise NotFoundError("The document was deleted meanwhile.", code="document_not_found")
    live, newest, live_since, newest_since = row or (None, None, 0, 0)
    if live_since > staged.since:
        discard(connection, staged.version)
        return
    newest_now = staged.version if newest_since <= staged.since else newest
    _touch(connection, staged)
    changed = connection.execute(
        "UPDATE versions SET status = 'indexed', passages = ? WHERE id = ? AND status = 'staged'",
        (passages, staged.version),
    )
    if not changed.rowcount:
        raise given_up()
    connection.execute(
        "INSERT INTO documents (id, owner, collection, live, newest, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
        " SET live = excluded.live, newest = excluded.newest, updated_at = excluded.updated_at",
        (
            staged.document_id, staged.owner, staged.collection, staged.version, newest_now,
            now, now,
        ),
    )  # fmt: skip
    discard(connection, live, newest if newest != newest_now else None)


def _touch(connection: sqlite3.Connection, staged: Staged) -> None:
    changed = connection.execute(
        "UPDATE collections SET generation = generation + 1 WHERE number = ? AND owner = ?",
        (staged.collection, staged.owner),
    )
    if not changed.rowcount:
        raise no_collection()


def drop_document(connection: sqlite3.Connection, owner: str, document_id: str) -> bool:
    """Take a document from view; its passages are left to `tidy`."""
    row = connection.execute(
        "DELETE FROM documents WHERE id = ? AND owner = ? RETURNING collection, live, newest",
        (document_id, owner),
    ).fetchone()
    if row is None:
        return False
    collection, live, newest = row
    connection.execute(
        "UPDATE collections SET generation = generation + 1 WHERE number = ?", (collection,)
    )
    discard(connection, live, newest)
    return True


def fail(
    connection: sqlite3.Connection, owner: str, document_id: str, reason: str, now: str
) -> None:
    """Say of the version that is queued why it cannot be indexed."""
    changed = connection.execute(
        "UPDATE versions SET status = 'failed', error = ? WHERE status = 'queued' AND id ="
        " (SELECT newest FROM documents WHERE id = ? AND owner = ?)",
        (reason, document_id, owner),
    )
    if changed.rowcount:
        connection.execute("UPDATE documents SET updated_at = ? WHERE id = ?", (now, document_id))
