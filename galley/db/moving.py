"""Copies the tables from SQLite to PostgreSQL, and tells whether all has arrived."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Boolean, Integer, Table, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from galley.db import work_tables
from galley.db.months import make_months, wanted_months
from galley.db.tables import ApiRequest, Base, Tier, utc_now

AT_ONCE = 5_000
"""Rows that are read, and written, at a time."""

TABLES: Sequence[Table] = work_tables.Base.metadata.sorted_tables
"""Those that others refer to come first."""

Tell = Callable[[str, int, int], None]
"""Told of a table by name how many rows are done, of how many."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A table that has arrived: `sums` of its numbers, by column."""

    name: str
    rows: int
    sums: Mapping[str, int] = field(default_factory=dict[str, int])


class MovingError(Exception):
    """It cannot be done, or came to something else than it should have; nothing has changed."""


async def occupied(target: AsyncConnection, tables: Sequence[str]) -> str | None:
    """Name a table that has anything in it but what every new database has."""
    for name in tables:
        query = f'SELECT 1 FROM "{name}" LIMIT 1'  # noqa: S608 - a name of ours
        found = await target.execute(text(query))
        if name != Tier.__tablename__ and found.first() is not None:
            return name
    return None


async def lock(target: AsyncConnection, tables: Sequence[str]) -> None:
    """Keep everybody else from reading and writing these tables until the transaction ends."""
    names = ", ".join(f'"{name}"' for name in tables)
    await target.execute(text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"))


async def move_tables(source: AsyncConnection, target: AsyncConnection, tell: Tell) -> list[Moved]:
    """Copy every table.

    Raises:
        MovingError: a table's count or sums differ.
    """
    await target.execute(Base.metadata.tables[Tier.__tablename__].delete())
    found: list[Moved] = []
    for table in TABLES:
        before = await _measured(source, table)
        if table is ApiRequest.__table__:
            await make_months(target, await wanted_months(source, table, now=utc_now()))
        done = 0
        tell(table.name, done, before.rows)
        async for records in _records(source, target, table):
            await _copy(target, table, records)
            done += len(records)
            tell(table.name, done, before.rows)
        found.append(agreed(before, await _measured(target, table)))
    return found


def agreed(before: Moved, after: Moved) -> Moved:
    """Return what has arrived.

    Raises:
        MovingError: it is not what there was.
    """
    if before != after:
        raise MovingError(
            f"{before.name} did not arrive whole: {before.rows} rows, {dict(before.sums)} became"
            f" {after.rows} rows, {dict(after.sums)}. Nothing was changed."
        )
    return after


async def _measured(connection: AsyncConnection, table: Table) -> Moved:
    numbers = [
        column
        for column in table.columns
        if isinstance(column.type, Integer) and not isinstance(column.type, Boolean)
    ]
    sums = [func.coalesce(func.sum(column), 0) for column in numbers]
    rows, *found = (await connection.execute(select(func.count(), *sums).select_from(table))).one()
    names = [column.name for column in numbers]
    return Moved(table.name, rows, dict(zip(names, map(int, found), strict=True)))


async def _records(
    source: AsyncConnection, target: AsyncConnection, table: Table
) -> AsyncGenerator[list[tuple[Any, ...]]]:
    """Yield a table's rows as PostgreSQL's driver wants them."""
    processors = [column.type.bind_processor(target.dialect) for column in table.columns]
    query = select(table).order_by(*table.primary_key.columns)
    async with source.stream(query) as rows:
        async for part in rows.partitions(AT_ONCE):
            yield [
                tuple(
                    storable(value if process is None else process(value))
                    for value, process in zip(row, processors, strict=True)
                )
                for row in part
            ]


def storable(value: Any) -> Any:
    """Return a value that PostgreSQL can keep: it has no text with zeros."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


async def _copy(target: AsyncConnection, table: Table, records: list[tuple[Any, ...]]) -> None:
    driver: Any = (await target.get_raw_connection()).driver_connection
    names = [column.name for column in table.columns]
    await driver.copy_records_to_table(table.name, records=records, columns=names)
