"""The ledger's writer for SQLite: the driver itself, on one thread that does nothing else."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Date
from sqlalchemy.types import TypeEngine

from galley.db.record import (
    COLUMNS,
    DAY_COLUMNS,
    RECEIPT_COLUMNS,
    STATE,
    SUM_COLUMNS,
    Done,
    RefusedRowError,
    Row,
    add_receipts,
    add_to_days,
    add_to_hours,
    daily_sums,
    hourly_sums,
    receipts,
    upsert_requests,
)
from galley.db.tables import (
    ApiRequest,
    Base,
    Id,
    Receipt,
    UsageDaily,
    UsageHourly,
    UtcDateTime,
    id_bytes,
)

# Each statement lets go of the interpreter and has to get it back: so many rows are one statement.
_AT_ONCE = 64


def _values(columns: Sequence[str], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"VALUES {', '.join([row] * rows)}"


@cache
def _upserts(rows: int) -> str:
    return upsert_requests(_values(COLUMNS, rows))


@cache
def _add_receipts(rows: int) -> str:
    return add_receipts(_values(RECEIPT_COLUMNS, rows))


_ADD_TO_HOURS = add_to_hours(_values(SUM_COLUMNS, 1))
_ADD_TO_DAYS = add_to_days(_values(DAY_COLUMNS, 1))
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
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            cached_statements=2 * _AT_ONCE + 16,  # every one of ours stays compiled
        )
        connection.execute("PRAGMA synchronous = FULL")
        return connection


def _commit(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        changed = _upsert(connection, rows)
        settled = [row for row in changed if row[STATE] != "open"]
        _write(connection, _add_receipts, list(map(_receipt, receipts(settled))))
        sums = hourly_sums(settled)
        connection.executemany(_ADD_TO_HOURS, map(_hour, sums))
        connection.executemany(_ADD_TO_DAYS, map(_day, daily_sums(sums)))


def _upsert(connection: sqlite3.Connection, rows: Sequence[Row]) -> Sequence[Row]:
    """Write `rows`; returns those that were not settled before."""
    values = [_request(row[:-1]) for row in rows]
    if _write(connection, _upserts, values) == len(rows):
        return rows
    # Some were: start anew, and ask of each.
    connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    one = _upserts(1)
    return [
        row for row, own in zip(rows, values, strict=True) if connection.execute(one, own).rowcount
    ]


def _write(
    connection: sqlite3.Connection,
    statement: Callable[[int], str],
    values: Sequence[Sequence[Any]],
) -> int:
    """Run the statement for so many rows; returns how many rows changed."""
    changed = 0
    for begin in range(0, len(values), _AT_ONCE):
        part = values[begin : begin + _AT_ONCE]
        cursor = connection.execute(statement(len(part)), tuple(chain.from_iterable(part)))
        changed += cursor.rowcount
    return changed


def _writer(table: type[Base], columns: Sequence[str]) -> Callable[[Row], Sequence[Any]]:
    """Make what writes ids and times of a row as SQLAlchemy does, so that it reads them."""
    kinds = [table.__table__.c[name].type for name in columns]
    changes = [(n, _FORMS[type(kind)]) for n, kind in enumerate(kinds) if type(kind) in _FORMS]

    def write(row: Row) -> Sequence[Any]:
        values = list(row)
        for n, form in changes:
            if values[n] is not None:
                values[n] = form(values[n])
        return values

    return write


def _moment(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat(" ", "microseconds")


_FORMS: Mapping[type[TypeEngine[Any]], Callable[[Any], Any]] = {
    Id: id_bytes,
    UtcDateTime: _moment,
    Date: date.isoformat,
}
_request = _writer(ApiRequest, COLUMNS)
_receipt = _writer(Receipt, RECEIPT_COLUMNS)
_hour = _writer(UsageHourly, SUM_COLUMNS)
_day = _writer(UsageDaily, DAY_COLUMNS)
