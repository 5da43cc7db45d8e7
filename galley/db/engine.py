"""Makes the engine: which URLs are databases of ours, and how SQLite is to behave."""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from galley.core.settings import SettingsError

BUSY_TIMEOUT_S = 5.0
"""How long a statement waits for SQLite's lock."""

_EXAMPLES = "Examples: sqlite:////var/lib/galley/galley.db, postgresql://user@host/galley"
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


def parse_url(url: str) -> URL:
    """Read a database URL: the driver is filled in, and the path to SQLite's file.

    Raises:
        SettingsError: it is no URL, or names a database that Galley does not use.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the URL may hold a password, so it is not repeated
        raise _unusable("is not a URL") from None
    if parsed.drivername not in _DRIVERS:
        raise _unusable(f"names {parsed.drivername!r}, which is not supported")
    parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
    if not is_sqlite(parsed):
        return parsed
    if parsed.database in {None, "", ":memory:"} or parsed.query:
        raise _unusable("has to name a file for SQLite, and nothing more")
    return parsed.set(database=str(Path(str(parsed.database)).expanduser().resolve()))


def is_sqlite(url: URL) -> bool:
    """Tell SQLite from PostgreSQL."""
    return url.get_backend_name() == "sqlite"


def make_engine(url: URL, *, migrating: bool = False) -> AsyncEngine:
    """Make the engine for a URL from `parse_url`; nothing is connected yet.

    Args:
        migrating: take the time it takes, and let SQLite rebuild tables that others refer to.
    Raises:
        SettingsError: the driver is not installed.
    """
    if is_sqlite(url):
        return _sqlite_engine(url, foreign_keys=not migrating)
    try:
        return create_async_engine(
            url,
            pool_pre_ping=True,  # a restarted PostgreSQL costs nobody an answer
            hide_parameters=True,
            connect_args={"timeout": 10, "command_timeout": None if migrating else 30},
        )
    except ModuleNotFoundError as error:
        raise SettingsError(
            "PostgreSQL needs its driver. Install it: pip install 'galley[postgres]'"
        ) from error


def _sqlite_engine(url: URL, *, foreign_keys: bool) -> AsyncEngine:
    # Without an isolation level the driver leaves BEGIN to us; its own begins no transaction for
    # SELECT and none for DDL.
    engine = create_async_engine(
        url,
        hide_parameters=True,
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S},
    )

    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        cursor.close()

    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    event.listen(engine.sync_engine, "connect", prepare)
    event.listen(engine.sync_engine, "begin", begin)
    return engine


def _unusable(why: str) -> SettingsError:
    return SettingsError(f"GALLEY_DATABASE_URL {why}. {_EXAMPLES}")
