"""The ledger's writer for SQLite: the driver itself, on one thread that does nothing else."""

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue

from galley.db.record import (
    COLUMNS,
    DAY_COLUMNS,
    STATE,
    SUM_COLUMNS,
    Done,
    RefusedRowError,
    Row,
    add_to_days,
    add_to_hours,
    daily_sums,
    hourly_sums,
    upsert_requests,
)

_UPSERT = upsert_requests(f"VALUES ({', '.join('?' * len(COLUMNS))})")
_ADD_TO_HOURS = add_to_hours(f"VALUES ({', '.join('?' * len(SUM_COLUMNS))})")
_ADD_TO_DAYS = add_to_days(f"VALUES ({', '.join('?' * len(DAY_COLUMNS))})")
_CREATED_AT = COLUMNS.index("created_at")
_HOUR = SUM_COLUMNS.index("hour")
_DAY = DAY_COLUMNS.index("day")
# A value that SQLite cannot hold, or a constraint that it breaks.
_ROW_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
)


class SqliteWriter:
    """Commits with the full fsync that a server needs that answers for what it recorded."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._path, self._busy_timeout_s = path, busy_timeout_s
        self._jobs: SimpleQueue[tuple[Sequence[Row], Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="galley-ledger", daemon=True)
        self._thread.start()

    def write(self, rows: Sequence[Row], done: Done) -> None:
        self._jobs.put((rows, done))

    async def aclose(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while job := self._jobs.get():
            rows, done = job
            error: Exception | None = None
            try:
                connection = connection or self._connect()
                _commit(connection, rows)
            except _ROW_ERRORS as refused:
                error = RefusedRowError(str(refused))
            except Exception as failed:
                error = failed
            self._loop.call_soon_threadsafe(done, error)
        if connection:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection


def _commit(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        changed = [
            row for row in rows if connection.execute(_UPSERT, _timed(row, _CREATED_AT)).rowcount
        ]
        sums = hourly_sums(row for row in changed if row[STATE] != "open")
        connection.executemany(_ADD_TO_HOURS, [_timed(row, _HOUR) for row in sums])
        connection.executemany(_ADD_TO_DAYS, [_dated(row) for row in daily_sums(sums)])


def _timed(row: Row, at: int) -> Row:
    """Write the time at `at` as SQLAlchemy does, so that it reads it."""
    moment: datetime = row[at]
    return (*row[:at], moment.replace(tzinfo=None).isoformat(" ", "microseconds"), *row[at + 1 :])


def _dated(row: Row) -> Row:
    return (*row[:_DAY], row[_DAY].isoformat(), *row[_DAY + 1 :])
