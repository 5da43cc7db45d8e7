"""The tables of the passages' file, and connections to it.

What nothing shows any more is named in `trash` and deleted bit by bit.
"""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from galley.core.settings import SettingsError
from galley.db.engine import BUSY_TIMEOUT_S

SCHEMA = 1
FILE = "passages.db"
"""Its name in the data directory."""

AT_ONCE = 128
"""Passages that one transaction adds or deletes; some 20 ms."""

# `generation` grows whenever other passages are shown. `words` holds, for each passage, what
# `passages_words.py` makes of its text; vectors and word counts are kept in runs of passages, so
# that a collection is read at the speed of the disk.
_TABLES = """
CREATE TABLE collections (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  owner TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT,
  metadata TEXT NOT NULL,
  model TEXT NOT NULL,
  dimensions INTEGER NOT NULL,
  generation INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL,
  UNIQUE (owner, name)
);
CREATE TABLE documents (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  collection INTEGER NOT NULL,
  live INTEGER,
  newest INTEGER NOT NULL,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
);
CREATE INDEX documents_of_owner ON documents (owner, id);
CREATE INDEX documents_of_collection ON documents (collection, id);
CREATE TABLE versions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  collection INTEGER NOT NULL,
  document TEXT NOT NULL,
  since INTEGER,
  status TEXT NOT NULL,
  error TEXT,
  name TEXT NOT NULL,
  media_type TEXT NOT NULL,
  metadata TEXT NOT NULL,
  text_hash TEXT NOT NULL,
  characters INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  passages INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX versions_of_collection ON versions (collection, name);
CREATE INDEX versions_staged ON versions (id) WHERE status = 'staged';
CREATE TABLE texts (version INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE passages (
  id INTEGER PRIMARY KEY,
  start INTEGER NOT NULL,
  "end" INTEGER NOT NULL,
  text TEXT NOT NULL,
  context TEXT NOT NULL
);
CREATE TABLE runs (id INTEGER PRIMARY KEY, vectors BLOB NOT NULL, lengths BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (
  body, content = '', columnsize = 0, detail = none,
  tokenize = 'porter unicode61 remove_diacritics 2'
);
INSERT INTO words (words, rank) VALUES ('usermerge', 2);
CREATE TABLE trash (
  kind TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
"""


def connect(
    path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S, reading: bool = False
) -> sqlite3.Connection:
    """Open the file; any thread may use the connection, one at a time."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )
    if reading:
        connection.execute("PRAGMA query_only = ON")
    return connection


def prepare(path: Path) -> None:
    """Make the file where it is missing, readable by its owner alone, and bring it up to date.

    Raises:
        SettingsError: it cannot be opened, is none of ours, or was made by a newer Galley.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            _migrate(connection, path)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"The documents {path} cannot be opened: {error}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    with transaction(connection, durable=True):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise SettingsError(f"{path} was made by a newer Galley (schema {version}).")
        if version == 0:
            for statement in _TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA}")


@contextmanager
def transaction(connection: sqlite3.Connection, *, durable: bool = False) -> Generator[None]:
    """Write in one transaction.

    Args:
        durable: it is on disk when this returns, and all before it; others survive the process,
            but not the machine.
    """
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def reading(connection: sqlite3.Connection) -> Generator[None]:
    """Read in one transaction: everything as it was at its first query."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
