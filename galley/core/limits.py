"""What a user, a key or a tier may use, and what is counted for it."""

from typing import Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field

Metric = Literal["requests", "tokens", "images", "texts", "cost", "concurrency"]
"""What is counted; `cost` in micro-dollars, `concurrency` in requests that run."""

Period = Literal["minute", "day", "month", "ever", "now"]
"""`minute`: any 60 seconds. `day` and `month`: of the UTC calendar. `ever`: since the beginning,
and it never comes back. `now`: at the same time."""

MOST = 10**15
"""No limit is higher: a thousand million dollars, in micro-dollars."""


class Counter(NamedTuple):
    """What is counted, whose, and over which time.

    Args:
        subject: `user:ID`, `user:ID/key:ID` or `user:ID/model:NAME`.
    """

    subject: str
    metric: Metric
    period: Period


class Rule(NamedTuple):
    """A counter and how far it may go."""

    counter: Counter
    limit: int


def _limit(description: str) -> int | None:
    return Field(default=None, ge=0, le=MOST, description=description)


class Limits(BaseModel):
    """Ceilings; null is none. A minute is any 60 seconds, a day and a month are UTC's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests_per_minute: int | None = _limit("Requests in any 60 seconds.")
    requests_per_day: int | None = _limit("Requests in a day.")
    tokens_per_minute: int | None = _limit("Tokens in any 60 seconds, prompt and answer.")
    tokens_per_day: int | None = _limit("Tokens in a day.")
    images_per_minute: int | None = _limit("Pictures classified, or described, in any 60 seconds.")
    images_per_day: int | None = _limit("Pictures classified, or described, in a day.")
    texts_per_minute: int | None = _limit("Texts embedded or ranked in any 60 seconds.")
    texts_per_day: int | None = _limit("Texts embedded or ranked in a day.")
    concurrency: int | None = _limit("Requests at the same time.")
    cost_per_day: int | None = _limit("Spending in a day, in micro-dollars.")
    cost_per_month: int | None = _limit("Spending in a month, in micro-dollars.")

    def rules(self, subject: str) -> tuple[Rule, ...]:
        """Return one rule per ceiling, counted for `subject`."""
        return tuple(
            Rule(Counter(subject, metric, period), limit)
            for name, (metric, period) in _COUNTED.items()
            if (limit := getattr(self, name)) is not None
        )


def _counted(name: str) -> tuple[Metric, Period]:
    metric, _, period = name.partition("_per_")
    return cast("Metric", metric), cast("Period", period or "now")


_COUNTED = {name: _counted(name) for name in Limits.model_fields}
