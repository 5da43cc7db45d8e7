"""The requests of each month, on PostgreSQL: a partition of their own, by the ranges of their ids.

A month is one when it is made, and it is made long before it comes. What comes in a month that was
not is kept in one more partition, so that the ledger can always write, and moved when it is made.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from sqlalchemy import FromClause, column, func, select, table, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from galley.db.advisory_locks import MONTHS
from galley.db.requests import first_id
from galley.db.tables import Id

AHEAD = 2
"""Months that are made before they come."""

LOCK_MS = 500
"""How long a change waits for those who read or write; others queue up behind it."""

_REST = "api_requests_rest"
_NAME = re.compile(r"api_requests_(\d{4})_(\d{2})")
_EPOCH = date(1970, 1, 1)


class Made(NamedTuple):
    """Which months were made, and how many requests are in none."""

    months: Sequence[date]
    homeless: int


async def wanted_months(
    connection: AsyncConnection, requests: FromClause, *, now: datetime
) -> list[date]:
    """This month and the next ones, and those before that have any of `requests`.

    Each is told by its first day, and costs one look-up in an index.
    """
    months = [now.astimezone(UTC).date().replace(day=1)]
    while len(months) <= AHEAD:
        months.append(_next(months[-1]))
    request_id, after, end = requests.c.request_id, _EPOCH, _bound(_next(months[-1]))
    while True:
        beyond = select(request_id).where(request_id >= _bound(after), request_id < end)
        first = await connection.scalar(beyond.order_by(request_id).limit(1))
        if first is None:
            return months
        months.append(_month(first))
        after = _next(months[-1])


async def make_months(connection: AsyncConnection, months: Iterable[date]) -> list[date]:
    """Make those that are not there yet; requests that had to wait for them go where they belong.

    Returns:
        Which were made.
    """
    missing = sorted(set(months) - set(await _made(connection)))
    if missing:
        # Who is about to write a month's first request to the rest has to look again.
        await connection.execute(text("LOCK TABLE ONLY api_requests IN SHARE ROW EXCLUSIVE MODE"))
        await connection.execute(text(f"LOCK TABLE {_REST} IN ACCESS EXCLUSIVE MODE"))
    for month in missing:
        name, begin, end = _name(month), _bound(month), _bound(_next(month))
        for statement in (
            f"CREATE TABLE {name} (LIKE api_requests INCLUDING ALL)",
            f"WITH moved AS (DELETE FROM {_REST} WHERE request_id >= '{begin}'"  # noqa: S608 - a month
            f" AND request_id < '{end}' RETURNING *) INSERT INTO {name} SELECT * FROM moved",
            # Unlike PARTITION OF, this keeps nobody from the other months.
            f"ALTER TABLE api_requests ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{begin}') TO ('{end}')",
        ):
            await connection.execute(text(statement))
    return missing


async def look_ahead(session: AsyncSession, *, now: datetime) -> Made:
    """Make the months that come, and those of requests that came in none."""
    connection = await session.connection()
    await _hurry(session)
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(MONTHS))):
        return Made((), 0)  # another server is at it
    rest = table(_REST, column("request_id", Id))
    made = await make_months(connection, await wanted_months(connection, rest, now=now))
    return Made(made, await session.scalar(select(func.count()).select_from(rest)) or 0)


async def find_old_month(session: AsyncSession, *, before: datetime) -> date | None:
    """The first month whose requests all came before that moment; None where there is none.

    On SQLite there never is.
    """
    if session.get_bind().dialect.name != "postgresql":
        return None
    # A request of a month's last moments may say that it came in the next one's first.
    last = (before - timedelta(hours=1)).date().replace(day=1)
    return min((m for m in await _made(await session.connection()) if m < last), default=None)


def end_of(month: date) -> datetime:
    """The moment before which all of a month's requests came."""
    return _begin(_next(month))


async def drop_month(session: AsyncSession, month: date) -> int | None:
    """Drop a month with all its requests.

    Returns:
        How many there were; None where some are open, as somebody may still settle them.
    """
    name = _name(month)
    part = table(name, column("state"))
    count = await session.scalar(select(func.count()).select_from(part)) or 0
    await _hurry(session)
    await session.execute(text("LOCK TABLE ONLY api_requests IN ACCESS EXCLUSIVE MODE"))
    if await session.scalar(select(part.c.state).where(part.c.state == "open").limit(1)):
        return None
    await session.execute(text(f"DROP TABLE {name}"))
    return count


async def _hurry(session: AsyncSession) -> None:
    """Rather fail than wait for a lock that somebody holds for long."""
    await session.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))


async def _made(connection: AsyncConnection) -> list[date]:
    parts = "SELECT inhrelid::regclass::text FROM pg_inherits"
    names = await connection.scalars(text(f"{parts} WHERE inhparent = 'api_requests'::regclass"))
    found = (_NAME.fullmatch(name) for name in names)
    return [date(int(match[1]), int(match[2]), 1) for match in found if match]


def _name(month: date) -> str:
    return f"api_requests_{month:%Y_%m}"


def _next(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)


def _bound(month: date) -> str:
    return first_id(_begin(month))


def _begin(month: date) -> datetime:
    return datetime.combine(month, time(), UTC)


def _month(request_id: str) -> date:
    milliseconds = int(request_id[:8] + request_id[9:13], 16)
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date().replace(day=1)
