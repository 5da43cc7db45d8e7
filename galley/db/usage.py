"""Queries on `usage_hourly`: what they cost does not grow with the number of requests."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.tables import UsageHourly


@dataclass(frozen=True, slots=True)
class Usage:
    """What settled requests came to; those that are open or interrupted are not in it."""

    requests: int
    successes: int
    prompt_tokens: int
    completion_tokens: int
    units: int
    response_time_ms: float
    by_endpoint: dict[str, int]


async def usage_of(session: AsyncSession, *, user_id: str) -> Usage:
    """Add up everything `user_id` ever asked for; `by_endpoint` counts requests."""
    query = (
        select(
            UsageHourly.endpoint,
            func.sum(UsageHourly.requests).label("requests"),
            func.sum(UsageHourly.successes).label("successes"),
            func.sum(UsageHourly.prompt_tokens).label("prompt_tokens"),
            func.sum(UsageHourly.completion_tokens).label("completion_tokens"),
            func.sum(UsageHourly.units).label("units"),
            func.sum(UsageHourly.response_time_ms).label("response_time_ms"),
        )
        .where(UsageHourly.user_id == user_id)
        .group_by(UsageHourly.endpoint)
        .order_by(UsageHourly.endpoint)
    )
    rows = (await session.execute(query)).all()
    return Usage(
        requests=int(sum(row.requests for row in rows)),  # PostgreSQL sums to a Decimal
        successes=int(sum(row.successes for row in rows)),
        prompt_tokens=int(sum(row.prompt_tokens for row in rows)),
        completion_tokens=int(sum(row.completion_tokens for row in rows)),
        units=int(sum(row.units for row in rows)),
        response_time_ms=float(sum(row.response_time_ms for row in rows)),
        by_endpoint={row.endpoint: int(row.requests) for row in rows},
    )
