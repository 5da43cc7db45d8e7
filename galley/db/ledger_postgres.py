"""The ledger's writer for PostgreSQL: a whole batch is one statement, with an array per column."""

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from galley.db.record import (
    AMOUNTS,
    COLUMNS,
    DAY_KEY,
    RECEIPT_COLUMNS,
    SUM_KEY,
    Done,
    RefusedRowError,
    Row,
    add_receipts,
    add_to_days,
    add_to_hours,
    upsert_requests,
)
from galley.db.tables import ApiRequest, Receipt

_HOUR = "date_trunc('hour', created_at, 'UTC')"
_DAY = "(created_at AT TIME ZONE 'UTC')::date"
_MODEL = "coalesce(served_model, '')"
_WORKED_OUT = {"hour": _HOUR, "day": _DAY, "served_model": _MODEL}
_COUNTED = {"requests": "count(*)", "successes": "count(*) FILTER (WHERE state = 'completed')"}


class PostgresWriter:
    """Commits on the event loop, in one round trip whatever the batch's size."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._statement = _statement(engine)

    def write(self, rows: Sequence[Row], done: Done) -> None:
        self._task = asyncio.create_task(self._write(rows, done))

    async def aclose(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            await self._connection.close()

    async def _write(self, rows: Sequence[Row], done: Done) -> None:
        error: Exception | None = None
        try:
            await self._commit(tuple(zip(*rows, strict=True)))
        except Exception as failed:
            error = RefusedRowError(str(failed)) if _is_refusal(failed) else failed
        done(error)

    async def _commit(self, columns: Sequence[Sequence[Any]]) -> None:
        is_kept = self._connection is not None
        try:
            driver = self._driver if is_kept else await self._connect()
            await driver.execute(self._statement, *columns)
        except Exception as failed:
            if _is_answer(failed):
                raise
            await self._disconnect()
            # It may have been closed since the last batch. What is written by now is not again.
            if not is_kept or isinstance(failed, TimeoutError):
                raise
            await self._commit(columns)

    async def _connect(self) -> Any:
        """Take the driver's own connection, and keep it: to ask the engine costs as much again."""
        connection = await self._engine.connect()
        self._driver = (await connection.get_raw_connection()).driver_connection
        self._connection = connection
        return self._driver

    async def _disconnect(self) -> None:
        if self._connection is not None:
            lost, self._connection = self._connection, None
            await lost.invalidate()
            await lost.close()


def _statement(engine: AsyncEngine) -> str:
    """Say all that a batch changes; it is one transaction of its own.

    What follows from rows that were written comes from what the first part gives back: a request
    that was settled before is not among it.
    """
    given = {column.name: column.type for column in ApiRequest.__table__.c}
    given = {name: given[name] for name in COLUMNS} | {"detail": Receipt.__table__.c.detail.type}
    kinds = [kind.compile(engine.dialect) for kind in given.values()]
    arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, 1))
    requests = upsert_requests(f"SELECT {', '.join(COLUMNS)} FROM given")  # noqa: S608 - our names
    receipts = add_receipts(
        f"SELECT {', '.join(RECEIPT_COLUMNS)} FROM given JOIN settled USING (request_id)"  # noqa: S608 - ours
        " WHERE detail IS NOT NULL"
    )
    return (
        "WITH given AS MATERIALIZED"  # noqa: S608 - types and names of our own columns
        f" (SELECT * FROM unnest({arrays}) AS given({', '.join(given)})),"
        f" written AS ({requests} RETURNING *),"
        " settled AS MATERIALIZED (SELECT * FROM written WHERE state <> 'open'),"
        f" receipted AS ({receipts}),"
        f" days AS ({add_to_days(_sums(DAY_KEY))}) "
        f"{add_to_hours(_sums(SUM_KEY))}"
    )


def _sums(key: Sequence[str]) -> str:
    """Add settled rows up, in one order, so that servers never wait for each other in a circle."""
    keys = ", ".join(_WORKED_OUT.get(name, name) for name in key)
    amounts = ", ".join(_COUNTED.get(name, f"coalesce(sum({name}), 0)") for name in AMOUNTS)
    order = ", ".join(map(str, range(1, len(key) + 1)))
    return f"SELECT {keys}, {amounts} FROM settled GROUP BY {order} ORDER BY {order}"  # noqa: S608 - ours


def _is_refusal(error: Exception) -> bool:
    """Tell a row that PostgreSQL does not take from a PostgreSQL that takes none.

    Source: PostgreSQL manual, appendix A: class 22 is data exceptions, class 23 constraints.
    """
    if sqlstate := getattr(error, "sqlstate", None):
        return sqlstate[:2] in {"22", "23"}
    return isinstance(error, ValueError)  # could not be encoded


def _is_answer(error: Exception) -> bool:
    """Tell whether PostgreSQL is still there: class 57P is an operator who stops it."""
    sqlstate = getattr(error, "sqlstate", None)
    return _is_refusal(error) if sqlstate is None else not sqlstate.startswith(("08", "57P"))
