"""What limiters are given in tests: a clock, and books that say what was used."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from galley.core.limits import Counter, Metric, Period
from galley.stores.limiter import Demand

NOON = 1_785_585_600.0  # 2026-08-01 12:00 UTC
MIDNIGHT = NOON + 43_200


class Clock:
    """Stands still until a test moves it."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Books:
    """Stands for the ledger: what was used before, and what requests came to."""

    used: dict[Counter, int] = field(default_factory=dict[Counter, int])
    results: dict[str, Mapping[Metric, int]] = field(
        default_factory=dict[str, Mapping[Metric, int]]
    )
    asked: list[tuple[Counter, datetime]] = field(default_factory=list[tuple[Counter, datetime]])
    broken: bool = False
    outcomes_asked: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes_broken: bool = False
    being_asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def spent(self, counter: Counter, since: datetime) -> int:
        self.asked.append((counter, since))
        self.being_asked.set()
        await asyncio.sleep(0.01)
        if self.broken:
            raise LookupError("the database is away")
        return self.used.get(counter, 0)

    async def outcomes(self, request_ids: Sequence[str]) -> Mapping[str, Mapping[Metric, int]]:
        self.outcomes_asked.set()
        if self.outcomes_broken:
            raise LookupError("the database is away")
        return {name: self.results[name] for name in request_ids if name in self.results}


def demand(
    metric: Metric, period: Period, limit: int, amount: int = 1, subject: str = "user:1"
) -> Demand:
    return Demand(Counter(subject, metric, period), limit, amount)


async def until(holds: Callable[[], Awaitable[object]], within_s: float = 5.0) -> None:
    """Wait for what happens in the background."""
    async with asyncio.timeout(within_s):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)
