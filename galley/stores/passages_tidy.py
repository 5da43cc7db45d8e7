"""Clears away what nothing in the passages' file shows any more, a few milliseconds at a time.

Then it joins the parts of the index of words: a word is looked up in each of them.
"""

import sqlite3
from itertools import chain

from galley.stores.passages_ids import span
from galley.stores.passages_schema import AT_ONCE
from galley.stores.passages_terms import split
from galley.stores.passages_words import indexed

_DOCUMENTS_AT_ONCE = 500
_PAGES_AT_ONCE = 64  # of the index of words; some 10 ms


def discard(connection: sqlite3.Connection, *versions: int | None) -> None:
    """Leave versions that nothing shows to `tidy`."""
    rows = [(version,) for version in set(versions) - {None}]
    connection.executemany("UPDATE versions SET status = 'discarded' WHERE id = ?", rows)
    connection.executemany("INSERT OR IGNORE INTO trash VALUES ('version', ?)", rows)


def give_up(connection: sqlite3.Connection, version: int | None = None) -> None:
    """Do so with a version that was not finished, or with all: what a crash left."""
    rows = connection.execute(
        "SELECT id FROM versions WHERE status = 'staged' AND id = coalesce(?, id)", (version,)
    ).fetchall()
    discard(connection, *chain.from_iterable(rows))


def tidy(connection: sqlite3.Connection) -> bool:
    """Do a little; False when there is nothing left to do."""
    row = connection.execute("SELECT kind, id FROM trash ORDER BY kind DESC, id LIMIT 1").fetchone()
    if row is None:
        return _join_words(connection)
    kind, id_ = row
    done = _tidy_version(connection, id_) if kind == "version" else _tidy_documents(connection, id_)
    if done:
        connection.execute("DELETE FROM trash WHERE kind = ? AND id = ?", row)
    return True


def _tidy_version(connection: sqlite3.Connection, version: int) -> bool:
    """Delete some passages; last, the version itself. Says whether it is gone."""
    first, last = span(version)
    rows = connection.execute(
        "SELECT p.id, p.context, p.text, v.collection FROM passages p"
        " JOIN versions v ON v.id = ? WHERE p.id BETWEEN ? AND ? ORDER BY p.id LIMIT ?",
        (version, first, last, AT_ONCE),
    ).fetchall()
    connection.executemany(  # FTS5 keeps no text, so it is told what it was given
        "INSERT INTO words (words, rowid, body) VALUES ('delete', ?, ?)",
        ((id_, indexed(number, split(f"{context} {text}"))) for id_, context, text, number in rows),
    )
    end = rows[-1][0] if rows else last
    connection.execute("DELETE FROM passages WHERE id BETWEEN ? AND ?", (first, end))
    connection.execute("DELETE FROM runs WHERE id BETWEEN ? AND ?", (first, end))
    if len(rows) == AT_ONCE:
        return False
    connection.execute("DELETE FROM texts WHERE version = ?", (version,))
    connection.execute("DELETE FROM versions WHERE id = ?", (version,))
    return True


def _join_words(connection: sqlite3.Connection) -> bool:
    """Join parts of the index of words that are of like size. Says whether there were any."""
    before = connection.total_changes
    connection.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (_PAGES_AT_ONCE,))
    return connection.total_changes - before >= 2  # as FTS5's documentation has it


def _tidy_documents(connection: sqlite3.Connection, collection: int) -> bool:
    """Hand the versions of some documents over. Says whether the collection is empty."""
    rows = connection.execute(
        "DELETE FROM documents WHERE id IN"
        " (SELECT id FROM documents WHERE collection = ? LIMIT ?) RETURNING live, newest",
        (collection, _DOCUMENTS_AT_ONCE),
    ).fetchall()
    discard(connection, *chain.from_iterable(rows))
    return len(rows) < _DOCUMENTS_AT_ONCE
