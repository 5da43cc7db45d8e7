"""Experiments: what became of a route's users, by the target that they were drawn.

A user stays with a target, so that users are what was drawn, and not requests: intervals are as
wide as the differences between users make them.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations
from math import sqrt

from galley.core.errors import NotFoundError
from galley.core.money import MICRO
from galley.db.definitions import last_definitions
from galley.db.experiments import MOST, ArmSums, Clustered, Quantiles, arm_quantiles, arm_sums
from galley.db.session import Sessions
from galley.db.tables import utc_now
from galley.schemas.experiments import ArmResult, Estimate, RouteResults
from galley.services.models import Models

FEWEST_USERS = 5
"""Fewer say nothing of others."""
USUAL = timedelta(days=30)
"""How far back a route is looked at that was never set while the server ran."""

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)  # ids know nothing before it
_Z = 1.959963984540054  # of 95 %


class Experiments:
    """Compares the targets of routes."""

    def __init__(self, sessions: Sessions, models: Models) -> None:
        self._sessions = sessions
        self._models = models

    async def results(
        self, route: str, *, since: datetime | None = None, now: datetime | None = None
    ) -> RouteResults:
        """Say what became of the requests to a route with several targets.

        Args:
            since: unset, since the route was last set.
        Raises:
            NotFoundError: there is no such route.
        """
        if (spec := self._models.routes.get(route)) is None:
            raise NotFoundError(f"There is no route {route!r}.", code="not_found")
        async with self._sessions() as session:
            if since is None:
                set_last = await last_definitions(session, kind="route", name=route, limit=1)
                since = set_last[0].created_at if set_last else (now or utc_now()) - USUAL
            since = max(since, _FIRST)
            looked_at, sums = await arm_sums(session, route=route, since=since)
            whole, first = [
                await arm_quantiles(session, route=route, since=since, of=of)
                for of in ("latency_ms", "first_token_ms")
            ]
        targets = [*spec.targets, *sorted(sums.keys() - spec.targets.keys())]
        data = [
            _result(name, spec.targets.get(name), sums.get(name), whole.get(name), first.get(name))
            for name in targets
        ]
        return RouteResults(
            route=route,
            since=since,
            complete=looked_at < MOST,
            data=data,
            verdicts=list(_verdicts(data)),
        )


def mean(sums: Clustered, *, unit: float = 1.0) -> Estimate:
    """Estimate the mean of requests that come in users.

    Args:
        unit: what the result is in, such as 1,000 for thousands.
    Source: Deng, Knoblich, Lu 2018, Applying the Delta Method in Metric Analytics, section 3.
    """
    if not sums.count:
        return Estimate(value=None, low=None, high=None)
    value = sums.total / sums.count
    if sums.users < FEWEST_USERS:
        return Estimate(value=value / unit, low=None, high=None)
    off = _t(sums.users - 1) * sqrt(_variance(sums))
    return Estimate(value=value / unit, low=(value - off) / unit, high=(value + off) / unit)


def share(sums: Clustered) -> Estimate:
    """Estimate a share of requests that come in users: Wilson's interval of the effective number.

    Source: Wilson 1927, Probable Inference; Franco, Little, Louis, Slud 2019, Comparative Study of
        Confidence Intervals for Proportions in Complex Sample Surveys.
    """
    if not sums.count:
        return Estimate(value=None, low=None, high=None)
    p, n = sums.total / sums.count, sums.count
    if sums.users < FEWEST_USERS:
        return Estimate(value=p, low=None, high=None)
    if variance := _variance(sums):
        n = min(n, p * (1 - p) / variance)
    square = _t(sums.users - 1) ** 2
    middle = (p + square / (2 * n)) / (1 + square / n)
    off = sqrt(square * (p * (1 - p) / n + square / (4 * n * n))) / (1 + square / n)
    return Estimate(value=p, low=max(0.0, middle - off), high=min(1.0, middle + off))


def _variance(sums: Clustered) -> float:
    """The variance of a mean: how far the users' sums are from what their counts would give."""
    value = sums.total / sums.count
    spread = sums.squares - 2 * value * sums.products + value * value * sums.counts
    if spread <= 1e-12 * sums.squares:  # all alike, but for what floats leave over
        return 0.0
    return sums.users / (sums.users - 1) * spread / sums.count**2


def _t(degrees: int) -> float:
    """Student's t of 95 %, to a hundredth.

    Source: Abramowitz & Stegun 1964, Handbook of Mathematical Functions, 26.7.5.
    """
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


_NOTHING = ArmSums(0, 0, 0, Clustered(), Clustered(), Clustered(), Clustered())


def _result(
    target: str,
    weight: float | None,
    sums: ArmSums | None,
    whole: Quantiles | None,
    first: Quantiles | None,
) -> ArmResult:
    sums = sums or _NOTHING
    return ArmResult(
        target=target,
        weight=weight,
        users=sums.cost.users,
        requests=sums.requests,
        errors=round(sums.failed.total),
        error_rate=share(sums.failed),
        latency_mean_ms=mean(sums.latency_ms),
        latency_p50_ms=whole and whole.p50,
        latency_p95_ms=whole and whole.p95,
        first_token_p50_ms=first and first.p50,
        first_token_p95_ms=first and first.p95,
        prompt_tokens=sums.prompt_tokens,
        completion_tokens=sums.completion_tokens,
        cost_usd_per_request=mean(sums.cost, unit=MICRO),
        feedback=round(sums.score.count),
        feedback_score=mean(sums.score),
    )


_Metric = tuple[Callable[[ArmResult], Estimate], str, Callable[[float], str], bool]

_METRICS: Sequence[_Metric] = (
    (lambda arm: arm.error_rate, "fails less often than", lambda x: f"{100 * x:.2f} %", False),
    (lambda arm: arm.latency_mean_ms, "answers faster than", lambda x: f"{x:.1f} ms", False),
    (lambda arm: arm.cost_usd_per_request, "costs less than", lambda x: f"${x:.6f}", False),
    (lambda arm: arm.feedback_score, "is rated better than", lambda x: f"{x:.2f}", True),
)
"""What is compared, how the better is told, how values are written, and if more is better."""


def _verdicts(arms: Sequence[ArmResult]) -> Iterator[str]:
    for of, better, write, more in _METRICS:
        for one, other in combinations(arms, 2):
            low, high = sorted((one, other), key=lambda arm: of(arm).value or 0.0)
            a, b = of(low), of(high)
            if a.high is None or b.low is None or a.high >= b.low:
                continue
            best, rest = (high, low) if more else (low, high)
            told = [f"{arm.target} {_told(of(arm), write)}" for arm in (best, rest)]
            yield f"{best.target} {better} {rest.target}: {'; '.join(told)}."


def _told(found: Estimate, write: Callable[[float], str]) -> str:
    low, value, high = (write(x or 0.0) for x in (found.low, found.value, found.high))
    return f"{value} ({low} to {high})"
