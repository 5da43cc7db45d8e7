"""Intervals that hold what they promise, and verdicts that rest on them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from galley.core.catalogue import ModelSettings, RouteSettings
from galley.core.errors import NotFoundError
from galley.db.definitions import add_definition
from galley.db.experiments import Clustered
from galley.db.ledger import Ledger
from galley.db.session import Database
from galley.db.tables import new_id
from galley.schemas.experiments import Estimate
from galley.services.experiments import FEWEST_USERS, USUAL, Experiments, mean, share
from galley.services.models import Models
from tests.records import finished, id_at, new_record

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
FAR = ModelSettings(kind="chat", source="http://far/v1")


@pytest.fixture
async def ledger(database: Database) -> AsyncGenerator[Ledger]:
    ledger = Ledger(database)
    yield ledger
    await ledger.aclose()


@pytest.fixture
def experiments(database: Database) -> Experiments:
    routes = {"smart": RouteSettings(targets={"big": 90, "small": 10})}
    return Experiments(database.sessions, Models({"big": FAR, "small": FAR}, routes))


def clustered(users: Sequence[Sequence[float]]) -> Clustered:
    sums = [(sum(own), len(own)) for own in users]
    return Clustered(
        count=sum(n for _, n in sums),
        users=len(sums),
        total=sum(s for s, _ in sums),
        squares=sum(s * s for s, _ in sums),
        products=sum(s * n for s, n in sums),
        counts=sum(n * n for _, n in sums),
    )


def covered(found: Estimate, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


@pytest.mark.parametrize("users", [6, 30, 200])
def test_of_a_hundred_intervals_of_means_ninety_five_hold_the_truth_though_users_differ(
    users: int,
) -> None:
    draw = Random(1)  # noqa: S311 - not a secret

    def user() -> list[float]:
        own = draw.gauss(100, 20)  # users differ more than the requests of one do
        return [draw.gauss(own, 5) for _ in range(draw.randint(1, 10))]

    held = [covered(mean(clustered([user() for _ in range(users)])), 100) for _ in range(1_000)]

    assert 0.90 < sum(held) / len(held) < 0.97


def test_of_a_hundred_intervals_of_shares_ninety_five_hold_the_truth_though_users_differ() -> None:
    draw = Random(1)  # noqa: S311 - not a secret

    def user() -> list[float]:
        own = draw.choice((0.02, 0.18))
        return [float(draw.random() < own) for _ in range(10)]

    held = [covered(share(clustered([user() for _ in range(60)])), 0.1) for _ in range(1_000)]

    assert 0.92 < sum(held) / len(held) < 0.98


def test_a_share_of_many_users_who_came_once_has_wilsons_interval() -> None:
    found = share(clustered([[1.0]] * 1_000 + [[0.0]] * 9_000))

    assert found.value == 0.1
    assert found.low == pytest.approx(0.09427, abs=2e-5)
    assert found.high == pytest.approx(0.10604, abs=2e-5)


def test_where_nothing_failed_something_still_might() -> None:
    found = share(clustered([[0.0]] * 100))

    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.0379, abs=5e-4)


def test_too_few_users_have_a_mean_and_no_interval() -> None:
    few = clustered([[1.0, 2.0]] * (FEWEST_USERS - 1))

    for found in (mean(few), share(clustered([[0.0]] * (FEWEST_USERS - 1)))):
        assert found.value is not None
        assert (found.low, found.high) == (None, None)
    assert mean(Clustered()).value is None
    assert share(Clustered()).value is None


def test_values_that_are_all_alike_have_an_interval_of_no_width() -> None:
    found = mean(clustered([[0.1] * n for n in range(1, 50)]))

    assert found.low == found.high == pytest.approx(0.1)


async def settle(
    ledger: Ledger, arm: str, *, users: int, at: datetime = NOW, cost: int = 100
) -> None:
    """Each of so many users asks `smart` twice; their costs differ by a micro-dollar or two."""
    records = [
        finished(
            new_record(user_id=user_id, request_id=id_at(at), created_at=at),
            route="smart",
            arm=arm,
            cost=cost + n % 3,
            response_time_ms=80.0,
        )
        for n, user_id in enumerate(new_id() for _ in range(users))
        for _ in range(2)
    ]
    await asyncio.gather(*map(ledger.settle, records))


async def test_a_verdict_is_given_where_intervals_do_not_overlap_and_nowhere_else(
    experiments: Experiments, ledger: Ledger
) -> None:
    await settle(ledger, "big", users=30, cost=300)
    await settle(ledger, "small", users=20, cost=100)

    found = await experiments.results("smart", now=NOW)

    assert [v.partition(":")[0] for v in found.verdicts] == ["small costs less than big"]
    assert "small $0.000101 (" in found.verdicts[0]
    big, small = found.data
    assert (big.target, big.weight, big.users, big.requests) == ("big", 90, 30, 60)
    assert (small.errors, small.feedback, small.feedback_score.value) == (0, 0, None)
    assert (small.latency_p50_ms, small.first_token_p95_ms) == (80.0, None)
    assert small.prompt_tokens == 5 * 40
    assert found.complete


async def test_two_users_decide_nothing(experiments: Experiments, ledger: Ledger) -> None:
    await settle(ledger, "big", users=2, cost=300_000)
    await settle(ledger, "small", users=2, cost=100)

    found = await experiments.results("smart", now=NOW)

    assert found.verdicts == []
    assert found.data[0].cost_usd_per_request.value == pytest.approx(0.3000005)


async def test_a_target_without_requests_is_listed_and_so_is_one_that_is_none_any_more(
    experiments: Experiments, ledger: Ledger
) -> None:
    await settle(ledger, "old", users=1)

    found = await experiments.results("smart", now=NOW)

    assert [(a.target, a.weight, a.requests) for a in found.data] == [
        ("big", 90, 0), ("small", 10, 0), ("old", None, 2),
    ]  # fmt: skip


async def test_it_begins_where_the_route_was_last_set(
    experiments: Experiments, ledger: Ledger, database: Database
) -> None:
    await settle(ledger, "big", users=1, at=NOW - USUAL - timedelta(minutes=1))
    await settle(ledger, "big", users=1, at=NOW - timedelta(minutes=1))

    never_set = await experiments.results("smart", now=NOW)
    async with database.sessions.begin() as session:
        row = await add_definition(session, kind="route", name="smart", spec=None)
        row.created_at = NOW
    since_set = await experiments.results("smart", now=NOW)
    all_of_it = await experiments.results("smart", since=datetime(1, 1, 1, tzinfo=UTC))

    counts = [found.data[0].requests for found in (never_set, since_set, all_of_it)]
    assert counts == [2, 0, 4]
    assert since_set.since == NOW


async def test_a_route_that_is_not_there_has_no_results(experiments: Experiments) -> None:
    with pytest.raises(NotFoundError):
        await experiments.results("nobody")
