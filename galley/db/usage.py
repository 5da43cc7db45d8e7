"""Queries on `usage_daily`: what they cost does not grow with the number of requests.

Only the hours know of keys, so that is where usage by key is read from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Row,
    Select,
    cast,
    extract,
    func,
    not_,
    null,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.tables import ApiKey, UsageDaily, UsageHourly, User

By = Literal["day", "model", "key", "endpoint", "user", "tier"]


@dataclass(frozen=True, slots=True)
class Span:
    """Whose usage, and from which day to which, both included; None is no bound."""

    user_id: str | None = None
    first: date | None = None
    last: date | None = None


class Sums(NamedTuple):
    """What settled requests came to; those that are open or interrupted are not in it."""

    requests: int = 0
    successes: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    units: int = 0
    cost: int = 0
    response_time_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """What the requests of one day, model, key, ... came to; `name` says more than `group`."""

    group: str
    name: str | None
    sums: Sums


Table = type[UsageDaily] | type[UsageHourly]

_KEYS: Mapping[By, ColumnElement[Any]] = {
    "day": UsageDaily.day.expression,
    "model": UsageDaily.served_model.expression,
    "key": UsageHourly.key_id.expression,
    "endpoint": UsageDaily.endpoint.expression,
    "user": UsageDaily.user_id.expression,
    "tier": UsageDaily.user_id.expression,
}


async def usage_by(
    session: AsyncSession, span: Span, by: By | None = None
) -> tuple[Mapping[str, Sums], list[Group]]:
    """Add up per endpoint, and by `by`, in one go over the table.

    Returns:
        The sums of every endpoint, and those of every group: days with the latest first, others
        with the most expensive first.
    """
    table = UsageHourly if by == "key" else UsageDaily
    key = [] if by is None else [_KEYS[by].label("key")]
    found = _summed(span, table, table.endpoint, *key).subquery()
    group, name, join = _named(found.c.key, by) if by else (null(), null(), None)
    query = select(found, group.label("group"), name.label("name"))
    if join is not None:
        query = query.select_from(found).outerjoin(*join)
    endpoints: dict[str, Sums] = {}
    groups: dict[str, Group] = {}
    for row in await session.execute(query.order_by(found.c.endpoint)):
        sums = _sums(row)
        endpoints[row.endpoint] = total(endpoints.get(row.endpoint, Sums()), sums)
        known = groups.get(str(row.group))
        groups[str(row.group)] = Group(
            str(row.group), row.name, total(known.sums, sums) if known else sums
        )
    if by is None:
        return endpoints, []
    return endpoints, sorted(groups.values(), key=_latest if by == "day" else _dearest)


async def usage_by_model_and_endpoint(
    session: AsyncSession, span: Span
) -> Sequence[tuple[str, str, Sums]]:
    """Add up per serving model and endpoint, in the order of their names."""
    key = (UsageDaily.served_model, UsageDaily.endpoint)
    query = _summed(span, UsageDaily, *key).order_by(*key)
    return [(row.served_model, row.endpoint, _sums(row)) for row in await session.execute(query)]


async def usage_by_month(session: AsyncSession, span: Span) -> Sequence[tuple[date, Sums]]:
    """Add up per calendar month, named by its first day, the latest first."""
    year, month = (
        cast(extract(part, UsageDaily.day), Integer).label(part) for part in ("year", "month")
    )
    query = _summed(span, UsageDaily, year, month)
    rows = await session.execute(query.order_by(year.desc(), month.desc()))
    return [(date(row.year, row.month, 1), _sums(row)) for row in rows]


def total(*parts: Sums) -> Sums:
    """Add sums up."""
    return Sums(*map(sum, zip(*parts, strict=True))) if parts else Sums()


def _summed(span: Span, table: Table, *key: Any) -> Select[*tuple[Any, ...]]:
    """Add up what is in `span`, by `key`."""
    sums = (func.sum(getattr(table, name)).label(name) for name in Sums._fields)
    query = select(*key, *sums).group_by(*key)
    if span.user_id is not None:
        query = query.where(table.user_id == span.user_id)
    if span.first is not None:
        query = query.where(_begins(table, span.first))
    if span.last not in (None, date.max):
        query = query.where(not_(_begins(table, span.last + timedelta(days=1))))
    return query


def _begins(table: Table, day: date) -> ColumnElement[bool]:
    if table is UsageDaily:
        return UsageDaily.day >= day
    return UsageHourly.hour >= datetime.combine(day, time(), UTC)


def _named(key: ColumnElement[Any], by: By) -> tuple[Any, Any, Any]:
    """Say what a group is called, what it is called by people, and which table knows that."""
    if by == "tier":
        return func.coalesce(User.tier, ""), null(), (User, User.id == key)
    if by == "user":
        return key, User.email, (User, User.id == key)
    if by == "key":
        return key, ApiKey.name, (ApiKey, ApiKey.id == key)
    return key, null(), None


def _dearest(group: Group) -> tuple[int, int, str]:
    return -group.sums.cost, -group.sums.requests, group.group


def _latest(group: Group) -> int:
    return -date.fromisoformat(group.group).toordinal()


def _sums(row: Row[Any]) -> Sums:
    *whole, milliseconds = (getattr(row, name) for name in Sums._fields)
    # PostgreSQL sums to a Decimal.
    return Sums._make((*map(int, whole), float(milliseconds)))
