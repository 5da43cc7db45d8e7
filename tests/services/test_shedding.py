"""Who is turned away while there is too much to do, or too little memory."""

import asyncio
import time

import pytest

from galley.core.caller import Caller
from galley.core.errors import OverloadedError
from galley.services.shedding import HEAVY_BYTES, LATE_S, TIMES, Shedding

WEIGHTS = {"free": 1, "premium": 4, "enterprise": 16}
LIMIT = 1_000


def caller(tier: str) -> Caller:
    return Caller(user_id="user", tier=tier, weight=WEIGHTS[tier])


class Load:
    """How many requests are in flight, and what memory is taken."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.resident = 0
        self.lags: list[float] = []
        self.shedding = Shedding(
            lambda: self.in_flight,
            max_in_flight=10,
            resident=lambda: self.resident,
            memory_limit=LIMIT,
            on_lag=self.lags.append,
        )

    def late(self, *lags: float) -> None:
        """Let the event loop be so late, one time after the other."""
        for lag in lags:
            self.shedding.tick(lag)

    def refused(self) -> list[str]:
        """Which tiers are."""
        found: list[str] = []
        for tier in WEIGHTS:
            try:
                self.shedding.admit(caller(tier))
            except OverloadedError as error:
                if error.code == "overloaded" and error.retry_after:
                    found.append(tier)
        return found


@pytest.fixture
def load() -> Load:
    return Load()


@pytest.mark.parametrize(
    ("in_flight", "refused"),
    [
        (0, []),
        (9, []),
        (10, ["free"]),
        (39, ["free"]),
        (40, ["free", "premium"]),
        (160, ["free", "premium", "enterprise"]),
    ],
)
def test_the_lighter_a_tier_the_sooner_it_is_refused(
    load: Load, in_flight: int, refused: list[str]
) -> None:
    load.in_flight = in_flight

    assert load.refused() == refused


@pytest.mark.parametrize(
    ("lags", "refused"),
    [
        ([LATE_S] * TIMES, ["free"]),
        ([9.0] * (TIMES - 1), []),
        ([9.0] * (TIMES - 1) + [0.0], []),
        ([9.0, *[LATE_S * 4] * (TIMES - 1)], ["free", "premium"]),
        ([9.0] * TIMES + [0.01], []),
    ],
)
def test_an_event_loop_counts_that_is_late_several_times_in_a_row(
    load: Load, lags: list[float], refused: list[str]
) -> None:
    load.late(*lags)

    assert load.refused() == refused


def test_what_is_refused_can_be_seen(load: Load) -> None:
    before = load.shedding.parts()["load"]
    load.in_flight = 40
    load.refused()

    assert before == "ok"
    assert load.shedding.parts()["load"] == "tiers up to weight 4 are refused"
    assert load.shedding.gauges()["requests"] == 4
    assert load.shedding.refused == {"load": 2}


def test_short_of_memory_large_bodies_are_refused_and_small_ones_are_not(load: Load) -> None:
    load.shedding.look_at(HEAVY_BYTES + 1)
    load.shedding.weigh(LIMIT + 1)

    load.shedding.look_at(HEAVY_BYTES)
    with pytest.raises(OverloadedError) as failure:
        load.shedding.look_at(HEAVY_BYTES + 1)

    assert failure.value.code == "memory_short"
    assert load.shedding.parts()["memory"] != "ok"
    load.shedding.weigh(LIMIT)
    load.shedding.look_at(HEAVY_BYTES + 1)


def test_a_server_that_stops_takes_nothing(load: Load) -> None:
    load.shedding.stopping = True

    with pytest.raises(OverloadedError) as failure:
        load.shedding.look_at(0)

    assert failure.value.code == "server_stopping"
    assert load.shedding.parts()["server"] == "stopping"


@pytest.mark.anyio
async def test_it_notices_by_itself_that_memory_is_short() -> None:
    load = Load()
    load.resident = LIMIT + 1
    watching = asyncio.create_task(load.shedding.keep_weight())

    async with asyncio.timeout(5):
        while not load.shedding.short_of_memory:  # noqa: ASYNC110 - on a thread of its own
            await asyncio.sleep(0.001)

    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.anyio
async def test_it_notices_by_itself_how_late_the_event_loop_is() -> None:
    load = Load()
    watching = asyncio.create_task(load.shedding.keep_time())

    async with asyncio.timeout(20):
        while load.shedding.gauges()["event_loop"] < 0.1:
            time.sleep(0.3)  # noqa: ASYNC251 - to hold up the loop is the point
            await asyncio.sleep(0)

    assert max(load.lags) > 0.05
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
