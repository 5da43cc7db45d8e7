"""The ledger's writer for PostgreSQL: a whole batch is one array per column."""

import asyncio
from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from galley.db.record import (
    COLUMNS,
    DAY_COLUMNS,
    RECEIPT_COLUMNS,
    REQUEST_ID,
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
from galley.db.tables import ApiRequest, Base, Receipt, UsageDaily, UsageHourly


class PostgresWriter:
    """Commits on the event loop; asyncpg's statements are the same whatever the batch's size."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None
        self._upsert = (
            upsert_requests(_unnest(engine, ApiRequest, COLUMNS)) + " RETURNING request_id::text"
        )
        self._add_receipts = add_receipts(_unnest(engine, Receipt, RECEIPT_COLUMNS))
        self._add_to_hours = add_to_hours(_unnest(engine, UsageHourly, SUM_COLUMNS))
        self._add_to_days = add_to_days(_unnest(engine, UsageDaily, DAY_COLUMNS))

    def write(self, rows: Sequence[Row], done: Done) -> None:
        self._task = asyncio.create_task(self._write(rows, done))

    async def aclose(self) -> None:
        """Nothing to free: the engine is the database's."""

    async def _write(self, rows: Sequence[Row], done: Done) -> None:
        error: Exception | None = None
        try:
            await self._commit(rows)
        except DBAPIError as failed:
            error = RefusedRowError(str(failed.orig)) if _is_refusal(failed) else failed
        except Exception as failed:
            error = failed
        done(error)

    async def _commit(self, rows: Sequence[Row]) -> None:
        async with self._engine.begin() as connection:
            values = tuple(zip(*rows, strict=True))[: len(COLUMNS)]
            answer = await connection.exec_driver_sql(self._upsert, values)
            changed = set(answer.scalars())
            settled = [row for row in rows if row[STATE] != "open" and row[REQUEST_ID] in changed]
            sums = hourly_sums(settled)
            for statement, rows in (
                (self._add_receipts, receipts(settled)),
                (self._add_to_hours, sums),
                (self._add_to_days, daily_sums(sums)),
            ):
                if rows:
                    await connection.exec_driver_sql(statement, tuple(zip(*rows, strict=True)))


def _unnest(engine: AsyncEngine, table: type[Base], columns: Sequence[str]) -> str:
    """Say `SELECT * FROM unnest($1::UUID[], ...)`, one array per column."""
    types = [table.__table__.c[name].type.compile(engine.dialect) for name in columns]
    arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(types, 1))
    return f"SELECT * FROM unnest({arrays})"  # noqa: S608 - types of our own columns


def _is_refusal(error: DBAPIError) -> bool:
    """Tell a row that PostgreSQL does not take from a PostgreSQL that takes none.

    Source: PostgreSQL manual, appendix A: class 22 is data exceptions, class 23 constraints.
    """
    if sqlstate := getattr(error.orig, "sqlstate", None):
        return sqlstate[:2] in {"22", "23"}
    return isinstance(getattr(error.orig, "__cause__", None), ValueError)  # could not be encoded
