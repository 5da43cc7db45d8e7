"""The counters that servers share: one script takes, one settles, each in one round trip."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from galley.core.limits import Counter, Metric
from galley.stores.limiter import Demand, State, Verdict
from galley.stores.limiter_calendar import SECOND_US, Calendar, is_calendar, microseconds
from galley.stores.limiter_ledger import LedgerReader
from galley.stores.redis_pipe import RedisPipe, Script

RESERVE = Script("limiter_reserve.lua")
SETTLE = Script("limiter_settle.lua")

PREFIX = "{galley}:limits"  # the braces keep all keys on one node of a cluster
INSTANCES = f"{PREFIX}:instances"
ALIVE_S = 30

NEEDS_SEEDS = -1
FITS, FOR_EVER = -2, -1


def held_key(instance_id: str) -> str:
    """Where the records of what an instance holds are."""
    return f"{PREFIX}:held:{instance_id}"


def settled_key(instance_id: str) -> str:
    """Where it is kept which requests of an instance were settled last."""
    return f"{PREFIX}:settled:{instance_id}"


def alive_key(instance_id: str) -> str:
    """The sign that an instance lives."""
    return f"{PREFIX}:alive:{instance_id}"


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be told of a request that ended.

    Args:
        totals: the counters of days, months and ever that the request fell under, and their
            metrics. What it used is added to them where nothing is held any more.
        how: `settle`, or `release` to replace what is held and no more.
    """

    request_id: str
    used: Mapping[Metric, int]
    totals: Sequence[tuple[str, Metric]] = ()
    how: Literal["settle", "release"] = "settle"


class SharedCounters:
    """Reserves and settles in Redis for one instance; raises `LostError` when that fails.

    Args:
        clock: seconds since the epoch; None takes Redis's own, the same for all servers. Which
            day it is is left to the server either way.
    """

    def __init__(
        self,
        pipe: RedisPipe,
        ledger: LedgerReader,
        instance_id: str,
        clock: Callable[[], float] | None,
    ) -> None:
        self._pipe = pipe
        self._ledger = ledger
        self._instance_id = instance_id
        self._clock = clock
        self._calendar = Calendar()
        self._own = [held_key(instance_id), alive_key(instance_id), INSTANCES]

    async def reserve(self, request_id: str, demands: Sequence[Demand]) -> Verdict:
        """Take every demand or none, as the contract says."""
        seeds: dict[str, int] = {}
        while True:
            now = self._now_us()
            keys = [self._key(demand.counter, now) for demand in demands]
            told = [
                self._tell(demand, seeds.get(key, -1), now)
                for demand, key in zip(demands, keys, strict=True)
            ]
            answer: list[int] = await self._pipe.run(
                RESERVE,
                [*self._own, *keys],
                "" if self._clock is None else now,
                request_id,
                self._instance_id,
                ALIVE_S,
                orjson.dumps(told),
            )
            if answer[0] != NEEDS_SEEDS:
                return _verdict(demands, answer)
            seeds |= await self._seeds({demands[n - 1].counter for n in answer[1:]}, now)

    async def settle(self, settlement: Settlement, instance_id: str | None = None) -> None:
        """Tell what a request came to. It was reserved by `instance_id`; None is this one."""
        holder = instance_id or self._instance_id
        await self._pipe.run(
            SETTLE,
            [held_key(holder), settled_key(holder), *(key for key, _ in settlement.totals)],
            settlement.request_id,
            settlement.how,
            orjson.dumps(settlement.used),
            *(metric for _, metric in settlement.totals),
        )

    def totals(self, demands: Sequence[Demand]) -> list[tuple[str, Metric]]:
        """The counters of days, months and ever among `demands`, once each."""
        now = self._now_us()
        counters = {demand.counter for demand in demands if is_calendar(demand.counter.period)}
        return [(self._key(counter, now), counter.metric) for counter in counters]

    def _now_us(self) -> int:
        return microseconds(time.time() if self._clock is None else self._clock())

    def _key(self, counter: Counter, now: int) -> str:
        name = f"{counter.subject}:{counter.metric}:{counter.period}"
        if is_calendar(counter.period):
            return f"{PREFIX}:{name}:{self._calendar.span(counter.period, now).name}"
        return f"{PREFIX}:{name}"

    def _tell(self, demand: Demand, seed: int, now: int) -> tuple[str | float, ...]:
        counter = demand.counter
        left: float = 0
        if is_calendar(counter.period):
            left = self._calendar.span(counter.period, now).end_us - now
        if math.isinf(left):
            left = FOR_EVER
        return counter.period, counter.metric, demand.limit, demand.amount, left, seed

    async def _seeds(self, counters: set[Counter], now: int) -> dict[str, int]:
        async def seed(counter: Counter) -> tuple[str, int]:
            begins = self._calendar.span(counter.period, now).begins
            return self._key(counter, now), await self._ledger.read(counter, begins)

        return dict(await asyncio.gather(*(seed(counter) for counter in counters)))


def _verdict(demands: Sequence[Demand], answer: Sequence[int]) -> Verdict:
    """Read what the script says: whether it reserved, and three numbers of each demand."""
    standings = list(zip(demands, answer[1::3], answer[2::3], answer[3::3], strict=True))
    states = [
        State(max(0, demand.limit - used), _seconds(reset)) for demand, used, reset, _ in standings
    ]
    if answer[0] == 1:
        return Verdict(states)
    waits = [(demand, _seconds(wait)) for demand, _, _, wait in standings if wait != FITS]
    return Verdict.refusal(states, waits)


def _seconds(microseconds: int) -> float:
    return math.inf if microseconds == FOR_EVER else microseconds / SECOND_US
