"""What became of an experiment: a route's targets, side by side."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from galley.schemas.base import Reply


class Estimate(Reply):
    """A mean or a share, and the interval that it lies in with 95 % confidence."""

    value: float | None = Field(description="null where there is nothing to go by.")
    low: float | None = Field(description="null where too few users tell.")
    high: float | None


class ArmResult(Reply):
    """One target. Its requests are those of the users who were drawn it, whoever answered."""

    target: str
    weight: float | None = Field(description="As it is now; null: it is no target any more.")
    users: int
    requests: int
    errors: int
    error_rate: Estimate = Field(description="A share, from 0 to 1.")
    latency_mean_ms: Estimate = Field(description="Of whole answers, as those that follow.")
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    first_token_p50_ms: float | None
    first_token_p95_ms: float | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd_per_request: Estimate = Field(description="In dollars.")
    feedback: int = Field(description="How many requests have some.")
    feedback_score: Estimate = Field(description="From -1, bad, to 1, good.")


class RouteResults(Reply):
    """Targets of a route, and what can be said of their differences."""

    object: Literal["route.results"] = "route.results"
    route: str
    since: datetime
    complete: bool = Field(description="false: there were more requests, and the latest are here.")
    data: list[ArmResult]
    verdicts: list[str] = Field(description="Differences whose intervals do not overlap.")
