"""What time it is, in whole microseconds, and which UTC day and month."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from galley.core.limits import Period

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US


class Moment(NamedTuple):
    """Now, in microseconds: since the epoch, and by a clock that nobody can set."""

    wall: int
    steady: int


@dataclass(frozen=True, slots=True)
class Span:
    """One day or one month, from its begin to before its end; `ever` has none.

    `name` is the day it begins on.
    """

    name: str
    begins: datetime
    begin_us: int
    end_us: float


def microseconds(seconds: float) -> int:
    """`seconds` as limits are counted in: whole, so that sums and waits are exact."""
    return round(seconds * SECOND_US)


def is_calendar(period: Period) -> bool:
    """Whether the ledger knows what was used in it."""
    return period in ("day", "month", "ever")


class Calendar:
    """Today and this month, worked out when they change."""

    def __init__(self) -> None:
        self._spans: dict[Period, Span] = {}

    def span(self, period: Period, now_us: int) -> Span:
        """The day or month that `now_us` is in, or all time."""
        span = self._spans.get(period)
        if span is None or not span.begin_us <= now_us < span.end_us:
            span = self._spans[period] = _span(period, now_us)
        return span


def _span(period: Period, now_us: int) -> Span:
    if period == "ever":
        return Span("1970-01-01", datetime.fromtimestamp(0, UTC), 0, math.inf)
    begins = datetime.fromtimestamp(now_us // SECOND_US, UTC)
    begins = begins.replace(hour=0, minute=0, second=0)
    if period == "month":
        begins = begins.replace(day=1)
        ends = (begins + timedelta(days=31)).replace(day=1)
    else:
        ends = begins + timedelta(days=1)
    begin_us, end_us = microseconds(begins.timestamp()), microseconds(ends.timestamp())
    return Span(f"{begins:%Y-%m-%d}", begins, begin_us, end_us)
