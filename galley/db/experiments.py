"""What became of a route's requests, target by target, added up by the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    Select,
    Subquery,
    case,
    cast,
    func,
    null,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.requests import first_id
from galley.db.tables import DRAWN, ApiRequest, Feedback

MOST = 100_000
"""Requests that are looked at, the latest."""

_NOT_COMPARED = ("count_tokens",)
"""Endpoints whose requests are not the models' work."""


@dataclass(frozen=True, slots=True)
class Clustered:
    """A sum over requests, and what its spread between users is worked out from.

    Args:
        count: how many requests have a value.
        users: how many users these came from.
        total: the sum of the values.
        squares: of the users' sums, the sum of their squares.
        products: of the users' sums and counts, the sum of their products.
        counts: of the users' counts, the sum of their squares.
    """

    count: float = 0.0
    users: int = 0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    counts: float = 0.0


@dataclass(frozen=True, slots=True)
class ArmSums:
    """What became of the requests of one target."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    failed: Clustered
    latency_ms: Clustered
    cost: Clustered
    score: Clustered


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The middle of some times, and what one in twenty is above, in milliseconds."""

    p50: float
    p95: float


async def arm_sums(
    session: AsyncSession, *, route: str, since: datetime
) -> tuple[int, Mapping[str, ArmSums]]:
    """Add up what a route's requests came to since then, by the target that was drawn.

    A request counts if a model or its lack ended it: those that were refused for what they are, or
    for their user's limits, say nothing of a model, and neither do answers from a cache.

    Returns:
        How many requests were looked at, `MOST` of them at most, and the sums of each target.
    """
    seen = _seen(route, since)
    values = {
        "failed": case((seen.c.failed, 1.0), else_=0.0),
        "latency_ms": seen.c.latency_ms,
        "cost": cast(seen.c.cost, Double),
        "score": seen.c.score,
    }
    tokens = ("prompt_tokens", "completion_tokens")
    users = (
        select(
            seen.c.arm,
            func.count().label("requests"),
            *(func.sum(seen.c[name]).label(name) for name in tokens),
            *(func.count(value).label(f"{name}_n") for name, value in values.items()),
            *(func.coalesce(func.sum(value), 0.0).label(name) for name, value in values.items()),
        )
        .where(seen.c.counts)
        .group_by(seen.c.arm, seen.c.user_id)
        .subquery()
    )
    whole = (func.sum(users.c[name]).label(name) for name in ("requests", *tokens))
    parts = (part for name in values for part in _clustered(users, name))
    found = await session.execute(select(users.c.arm, *whole, *parts).group_by(users.c.arm))
    sums = {
        row.arm: ArmSums(
            requests=int(row.requests),
            prompt_tokens=int(row.prompt_tokens),
            completion_tokens=int(row.completion_tokens),
            failed=_read(row, "failed"),
            latency_ms=_read(row, "latency_ms"),
            cost=_read(row, "cost"),
            score=_read(row, "score"),
        )
        for row in found
    }
    looked_at = await session.scalar(select(func.count()).select_from(seen)) or 0
    return looked_at, sums


async def arm_quantiles(
    session: AsyncSession, *, route: str, since: datetime, of: str
) -> Mapping[str, Quantiles]:
    """Find quantiles of the same requests' times, by target.

    Args:
        of: `latency_ms` of whole answers, or `first_token_ms`.
    Source: Hyndman & Fan 1996, Sample Quantiles in Statistical Packages, definition 1 (the value
        that so many are not above; it is one of those that were measured).
    """
    seen = _seen(route, since)
    value: ColumnElement[float] = seen.c[of]
    ranked = (
        select(
            seen.c.arm,
            value.label("value"),
            func.row_number().over(partition_by=seen.c.arm, order_by=value).label("rank"),
            func.count().over(partition_by=seen.c.arm).label("of"),
        )
        .where(seen.c.counts, value.is_not(None))
        .subquery()
    )
    p50, p95 = (
        func.min(case((100 * ranked.c.rank >= per_cent * ranked.c.of, ranked.c.value)))
        for per_cent in (50, 95)
    )
    query = select(ranked.c.arm, p50.label("p50"), p95.label("p95")).group_by(ranked.c.arm)
    return {row.arm: Quantiles(row.p50, row.p95) for row in await session.execute(query)}


def _seen(route: str, since: datetime) -> Subquery:
    """The latest requests of a route since then whose user was drawn a target."""
    told = (ApiRequest.state == "failed") | (ApiRequest.status >= 500)
    whole = ApiRequest.state == "completed"
    query: Select[*tuple[Any, ...]] = (
        select(
            ApiRequest.arm,
            ApiRequest.user_id,
            ApiRequest.prompt_tokens,
            ApiRequest.completion_tokens,
            ApiRequest.cost,
            ApiRequest.first_token_ms,
            case((whole, ApiRequest.response_time_ms), else_=null()).label("latency_ms"),
            func.coalesce(told, False).label("failed"),
            _counts(told).label("counts"),
            Feedback.score,
        )
        .outerjoin(Feedback, Feedback.request_id == ApiRequest.request_id)
        .where(DRAWN, ApiRequest.route == route, ApiRequest.request_id >= first_id(since))
        .order_by(ApiRequest.request_id.desc())
        .limit(MOST)
    )
    return query.subquery()


def _counts(told: ColumnElement[bool]) -> ColumnElement[bool]:
    ended = or_(ApiRequest.state.in_(("completed", "cancelled")), func.coalesce(told, False))
    return ended & ApiRequest.cache.is_(None) & ApiRequest.endpoint.not_in(_NOT_COMPARED)


def _clustered(users: Subquery, name: str) -> tuple[ColumnElement[Any], ...]:
    total = users.c[name]
    count = cast(users.c[f"{name}_n"], Double)  # or their products would leave whole numbers
    parts = {
        "count": func.sum(count),
        "users": func.sum(case((count > 0, 1), else_=0)),
        "total": func.sum(total),
        "squares": func.sum(total * total),
        "products": func.sum(total * count),
        "counts": func.sum(count * count),
    }
    return tuple(part.label(f"{name}_{of}") for of, part in parts.items())


def _read(row: Any, name: str) -> Clustered:
    return Clustered(
        getattr(row, f"{name}_count"),
        int(getattr(row, f"{name}_users")),
        *(getattr(row, f"{name}_{of}") for of in ("total", "squares", "products", "counts")),
    )
