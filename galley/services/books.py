"""The audit of the ledger: works every sum out anew, and names the first that is another."""

import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db import books
from galley.db.record import AMOUNTS
from galley.db.retention import whole_from
from galley.db.session import Sessions
from galley.db.tables import Price
from galley.services.pricing import cost_of

SLACK = timedelta(minutes=10)
"""How far a request's id may be from its time: both are taken when it comes."""

Key = tuple[str, str, str, str]
"""User, key (empty in the daily sums), endpoint, serving model."""

Sums = list[float]
"""In the order of `AMOUNTS`; all but the last are whole."""

Groups = dict[Key, Sums]
Periods = AsyncGenerator[tuple[Any, Groups]]


class DisagreementError(Exception):
    """A row is not what it must be; the message names it, and says both."""


@dataclass(slots=True)
class Audit:
    """What was compared and found to agree."""

    requests: int = 0
    hours: int = 0
    days: int = 0
    invoices: int = 0
    whole_from: datetime | None = None
    """Requests from before that were deleted, as they were old: their sums were not compared."""


class Books:
    """Audits the ledger from what is in the database, of which it changes nothing."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def audit(self, progress: Callable[[int, int], None] = lambda done, of: None) -> Audit:
        """Compare requests with their prices, and sums with what they are sums of.

        Args:
            progress: told how many requests of how many have been looked at.
        Raises:
            DisagreementError: something is wrong.
        """
        async with self._sessions() as session:
            await books.hold_still(session)
            audit = Audit(whole_from=await whole_from(session))
            costs = _Costs(await books.all_prices(session), audit.whole_from)
            count = await books.count_settled(session)

            def seen(requests: int) -> None:
                audit.requests = requests
                progress(requests, count)

            summed = _by_hour(session, audit.whole_from, costs, seen)
            kept = _from(audit.whole_from, _by_period(books.hourly_rows(session)))
            audit.hours = await _compare("usage_hourly", summed, kept)
            days = _by_day(_by_period(books.hourly_rows(session)))
            audit.days = await _compare("usage_daily", days, _by_period(books.daily_rows(session)))
            audit.invoices = await _compare_invoices(session, costs)
        return audit


@dataclass(slots=True)
class _Costs:
    """Holds requests to their prices, and adds up what users owe for months that are whole."""

    prices: Mapping[str, Price]
    whole_from: datetime | None
    by_month: dict[tuple[str, date], int] = field(default_factory=dict[tuple[str, date], int])

    @property
    def first_month(self) -> date:
        """The first month of which no request is missing."""
        if self.whole_from is None:
            return date.min
        first = self.whole_from.date().replace(day=1)
        if self.whole_from == datetime.combine(first, datetime.min.time(), UTC):
            return first
        return (first + timedelta(days=31)).replace(day=1)

    def add(self, row: Row[Any]) -> None:
        what = f"api_requests {row.request_id}"
        if row.price_id is None:
            due = 0
        elif (price := self.prices.get(row.price_id)) is None:
            raise DisagreementError(f"{what}: there is no price {row.price_id}")
        elif price.model != row.served_model:
            raise DisagreementError(
                f"{what}: answered by {row.served_model}, and charged as {price.model}"
            )
        else:
            due = cost_of(price, row)  # pyright: ignore[reportArgumentType] - a row has them all
        if row.cost != due:
            raise DisagreementError(f"{what}: cost is {row.cost}, and by its price {due}")
        month = row.created_at.date().replace(day=1)
        if month >= self.first_month:
            key = (row.user_id, month)
            self.by_month[key] = self.by_month.get(key, 0) + due


async def _by_hour(
    session: AsyncSession,
    since: datetime | None,
    costs: _Costs,
    seen: Callable[[int], None],
) -> Periods:
    """Add requests up by the hour; an hour is done when ids are well past its end."""
    running: dict[datetime, Groups] = {}
    count = 0
    async with aclosing(books.settled_requests(session, since=since)) as parts:
        async for part in parts:
            for row in part:
                costs.add(row)
                hour = row.created_at.replace(minute=0, second=0, microsecond=0)
                _add(running.setdefault(hour, {}), row)
            count += len(part)
            seen(count)
            reached = _in_time(part)
            for hour in sorted(h for h in running if h + timedelta(hours=1) + SLACK < reached):
                yield hour, running.pop(hour)
    for hour in sorted(running):
        yield hour, running.pop(hour)


def _in_time(part: Sequence[Row[Any]]) -> datetime:
    """Hold ids to the time that they tell; returns that of the last one."""
    told = datetime.min.replace(tzinfo=UTC)
    for row in part:
        milliseconds = int(row.request_id[:8] + row.request_id[9:13], 16)
        told = datetime.fromtimestamp(milliseconds / 1000, UTC)
        if abs(row.created_at - told) > SLACK:
            raise DisagreementError(
                f"api_requests {row.request_id}: created_at is {row.created_at}, "
                f"and by its id {told}"
            )
    return told


def _add(groups: Groups, row: Row[Any]) -> None:
    sums = groups.setdefault(
        (row.user_id, row.key_id, row.endpoint, row.served_model or ""), [0] * len(AMOUNTS)
    )
    adds = (
        1, row.state == "completed", row.prompt_tokens, row.completion_tokens, row.units,
        row.cost, row.response_time_ms or 0.0,
    )  # fmt: skip
    for n, add in enumerate(adds):
        sums[n] += add


async def _by_period(parts: AsyncGenerator[Sequence[Row[Any]]]) -> Periods:
    """Gather rows that come in the order of their periods."""
    period: Any = None
    groups: Groups = {}
    async with aclosing(parts):
        async for part in parts:
            for row in part:
                if row.period != period:
                    if groups:
                        yield period, groups
                    period, groups = row.period, {}
                key = (row.user_id, row.key_id, row.endpoint, row.served_model)
                groups[key] = [getattr(row, name) for name in AMOUNTS]
    if groups:
        yield period, groups


async def _from(since: datetime | None, hours: Periods) -> Periods:
    async with aclosing(hours):
        async for hour, groups in hours:
            if since is None or hour >= since:
                yield hour, groups


async def _by_day(hours: Periods) -> Periods:
    """Add hours up by the day, whatever the key."""
    day: date | None = None
    days: Groups = {}
    async with aclosing(hours):
        async for hour, groups in hours:
            if hour.date() != day:
                if day is not None:
                    yield day, days
                day, days = hour.date(), {}
            for (user_id, _, endpoint, model), sums in groups.items():
                key = (user_id, "", endpoint, model)
                known = days.get(key)
                days[key] = [a + b for a, b in zip(known, sums, strict=True)] if known else sums
    if day is not None:
        yield day, days


async def _compare(table: str, due: Periods, kept: Periods) -> int:
    """Compare sums, the earliest first; returns how many there were."""
    count = 0
    async with aclosing(due), aclosing(kept):
        ours, theirs = await anext(due, None), await anext(kept, None)
        while ours or theirs:
            period = min(side[0] for side in (ours, theirs) if side)
            expected: Groups = {}
            found: Groups = {}
            if ours and ours[0] == period:
                expected, ours = ours[1], await anext(due, None)
            if theirs and theirs[0] == period:
                found, theirs = theirs[1], await anext(kept, None)
            _compare_groups(f"{table} {period}", expected, found)
            count += len(found)
    return count


def _compare_groups(what: str, expected: Groups, found: Groups) -> None:
    for key in sorted(expected.keys() | found.keys()):
        whose = f"user {key[0]} key {key[1]}" if key[1] else f"user {key[0]}"
        row = f"{what} {whose} {key[2]} {key[3] or '(no model)'}"
        if key not in found:
            raise DisagreementError(f"{row}: the row is missing")
        if key not in expected:
            raise DisagreementError(f"{row}: there is nothing that it could be the sum of")
        for name, is_, due in zip(AMOUNTS, found[key], expected[key], strict=True):
            # Times are floats, and which were added first nobody knows.
            if is_ != due and not (name == "response_time_ms" and math.isclose(is_, due)):
                raise DisagreementError(f"{row}: {name} is {is_}, and adds up to {due}")


async def _compare_invoices(session: AsyncSession, costs: _Costs) -> int:
    due, billed = costs.by_month, await books.cost_by_month(session, costs.first_month)
    for user_id, month in sorted(due.keys() | billed.keys(), key=lambda key: (key[1], key[0])):
        is_, sum_ = billed.get((user_id, month), 0), due.get((user_id, month), 0)
        if is_ != sum_:
            raise DisagreementError(
                f"invoice {month:%Y-%m} of user {user_id}: comes to {is_}, its requests to {sum_}"
            )
    return len(billed)
