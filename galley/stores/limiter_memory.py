"""Limits in the memory of one process.

Nothing between two awaits is interrupted on an event loop, so checking and reserving need no lock.
Idle counters are let go by generations: what a whole generation did not touch holds nothing.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence

from galley.core.limits import Counter, Metric
from galley.stores.limiter import Demand, Spent, State, Verdict
from galley.stores.limiter_calendar import (
    MINUTE_US,
    SECOND_US,
    Calendar,
    Moment,
    Span,
    is_calendar,
    microseconds,
)
from galley.stores.limiter_ledger import LedgerReader
from galley.stores.limiter_tallies import Bucket, Gauge, Tally, Total, Window

Held = list[tuple[Tally, Bucket | None, Demand]]


class MemoryLimiter:
    """Keeps the counters of one process, on one event loop.

    Args:
        spent: seeds the counters of days, months and ever.
        clock: seconds since the epoch; None takes the machine's, and for minutes its steady one.
    """

    problem: str | None = None

    def __init__(self, spent: Spent, *, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._ledger = LedgerReader(spent)
        self._calendar = Calendar()
        self._held: dict[str, Held] = {}
        self._windows: dict[Counter, Window] = {}
        self._older_windows: dict[Counter, Window] = {}
        self._generation_us = 0
        self._gauges: dict[Counter, Gauge] = {}
        self._totals: dict[str, tuple[Span, dict[Counter, Total]]] = {}

    async def reserve(self, request_id: str, demands: Sequence[Demand]) -> Verdict:
        now = self._now()
        while (tallies := self._find(demands, now)) is None:
            await self._load(demands, now)
            now = self._now()
        pairs = list(zip(tallies, demands, strict=True))
        if request_id not in self._held:
            over = _add(pairs)
            if over:
                waits = [(demand, _wait_s(tally, excess, now)) for tally, demand, excess in over]
                self._drop_idle_gauges(demands)
                return Verdict.refusal(_states(pairs, now), waits)
            self._held[request_id] = [
                (tally, tally.place(demand.amount, now), demand) for tally, demand in pairs
            ]
        return Verdict(_states(pairs, now))

    async def settle(
        self, request_id: str, demands: Sequence[Demand], used: Mapping[Metric, int]
    ) -> None:
        counted: list[Tally] = []
        for tally, bucket, demand in self._held.pop(request_id, ()):
            # Demands on one counter were added up; what was used of it counts once.
            counts = demand.counter.period != "now" and tally not in counted
            tally.replace(
                demand.amount, used.get(demand.counter.metric, 0) if counts else 0, bucket
            )
            counted.append(tally)
        self._drop_idle_gauges(demands)

    def add(self, demands: Sequence[Demand], used: Mapping[Metric, int]) -> None:
        """Count what a request used that was reserved elsewhere, where that is counted here."""
        for counter in {demand.counter for demand in demands}:
            known = self._totals.get(counter.period)
            if known is not None and counter in known[1]:
                known[1][counter].used += used.get(counter.metric, 0)

    async def aclose(self) -> None:
        """Nothing is told to anybody."""

    def _now(self) -> Moment:
        if self._clock is None:
            return Moment(microseconds(time.time()), microseconds(time.monotonic()))
        now = microseconds(self._clock())
        return Moment(now, now)

    def _find(self, demands: Sequence[Demand], now: Moment) -> list[Tally] | None:
        """The tally of each demand, up to date; None while one of them is not known yet."""
        if not 0 <= now.steady - self._generation_us < MINUTE_US:
            self._older_windows, self._windows = self._windows, {}
            self._generation_us = now.steady
        tallies: list[Tally] = []
        for demand in demands:
            counter = demand.counter
            if counter.period == "minute":
                window = self._windows.get(counter) or self._window(counter)
                window.drop_old(now)
                tallies.append(window)
            elif counter.period == "now":
                tallies.append(self._gauges.get(counter) or self._gauge(counter))
            elif (total := self._current(counter, now)[1].get(counter)) is not None:
                tallies.append(total)
            else:
                return None
        return tallies

    def _window(self, counter: Counter) -> Window:
        window = self._windows[counter] = self._older_windows.pop(counter, None) or Window()
        return window

    def _gauge(self, counter: Counter) -> Gauge:
        gauge = self._gauges[counter] = Gauge()
        return gauge

    def _drop_idle_gauges(self, demands: Sequence[Demand]) -> None:
        for demand in demands:
            gauge = self._gauges.get(demand.counter) if demand.counter.period == "now" else None
            if gauge is not None and not gauge.used:
                del self._gauges[demand.counter]

    def _current(self, counter: Counter, now: Moment) -> tuple[Span, dict[Counter, Total]]:
        """The totals of this day or month, or of ever; those of the last one are let go."""
        current = self._totals.get(counter.period)
        if current is None or not current[0].begin_us <= now.wall < current[0].end_us:
            current = self._totals[counter.period] = (
                self._calendar.span(counter.period, now.wall),
                {},
            )
        return current

    async def _load(self, demands: Sequence[Demand], now: Moment) -> None:
        asked = {demand.counter for demand in demands if is_calendar(demand.counter.period)}
        current = [(counter, *self._current(counter, now)) for counter in asked]
        unknown = [found for found in current if found[0] not in found[2]]
        reads = (self._ledger.read(counter, span.begins) for counter, span, _ in unknown)
        for (counter, span, totals), used in zip(
            unknown, await asyncio.gather(*reads), strict=True
        ):
            # Others may have waited for the same, and reserved since.
            totals.setdefault(counter, Total(used, span.end_us))


def _add(pairs: Sequence[tuple[Tally, Demand]]) -> list[tuple[Tally, Demand, int]]:
    """Add up all demands, and take them back if that is too much; returns by how much."""
    for tally, demand in pairs:
        tally.used += demand.amount
    over = [
        (tally, demand, tally.used - demand.limit)
        for tally, demand in pairs
        if tally.used > demand.limit
    ]
    if over:
        for tally, demand in pairs:
            tally.used -= demand.amount
    return over


def _wait_s(tally: Tally, excess: int, now: Moment) -> float:
    # Even if nothing were used, it would be too much.
    if excess > tally.used:
        return math.inf
    return tally.wait_us(excess, now) / SECOND_US


def _states(pairs: Sequence[tuple[Tally, Demand]], now: Moment) -> list[State]:
    return [
        State(max(0, demand.limit - tally.used), tally.reset_us(now) / SECOND_US)
        for tally, demand in pairs
    ]
