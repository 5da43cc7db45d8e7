"""A caller's limits: what a request may take of them, and what to say of them."""

from collections.abc import Mapping, Sequence
from math import ceil, isinf

from galley.core.caller import Caller
from galley.core.errors import RateLimitError
from galley.core.limits import Counter, Metric, Rule
from galley.core.money import dollars
from galley.db.tables import new_id
from galley.schemas.usage import LimitLeft
from galley.stores.limiter import Demand, Limiter, State, Verdict

Headers = list[tuple[bytes, bytes]]

WORTH_WAITING_S = 61.0
"""Who would have to wait longer is told not to try again by itself."""

_UNITS: Mapping[Metric, str] = {
    "requests": "requests", "tokens": "tokens", "images": "images", "texts": "texts",
    "concurrency": "requests",
}  # fmt: skip
_TIMES = {"minute": "in any 60 seconds", "day": "a day", "month": "a month", "now": "at a time"}
_TELLS: Mapping[str, bytes] = {
    "requests": b"requests", "images": b"requests", "texts": b"requests", "tokens": b"tokens",
}  # fmt: skip


def demands_of(rules: Sequence[Rule], most: Mapping[Metric, int]) -> list[Demand]:
    """List those of `rules` that a request falls under, with the most that it may take of each."""
    return [
        Demand(rule.counter, rule.limit, amount)
        for rule in rules
        if (amount := most.get(rule.counter.metric, 0))
    ]


def refusal(verdict: Verdict, caller: Caller) -> RateLimitError:
    """Say which limit is in the way, and when it is worth trying again."""
    demand, wait = verdict.refused, verdict.retry_after_s
    assert demand is not None  # noqa: S101 - only of a refusal
    counter = demand.counter
    if counter.period == "ever":
        return _no_credit(demand)
    limit = f"the limit of {_amount(counter.metric, demand.limit)} {_TIMES[counter.period]}"
    limit += f" ({_whose(counter, caller)})"
    if wait is None:
        most = _amount(counter.metric, demand.amount)
        said = f"This request may take {most}, which is more than {limit}. Ask for less"
        said += ", with a smaller max_tokens." if counter.metric in ("tokens", "cost") else "."
    else:
        said = f"T{limit[1:]} is reached. Try again in {ceil(wait)} s."
    return RateLimitError(
        said,
        code="insufficient_quota" if counter.metric == "cost" else "rate_limit_exceeded",
        retry_after=wait,
        should_retry=wait is not None and wait <= WORTH_WAITING_S,
    )


def _amount(metric: Metric, amount: int) -> str:
    return f"${dollars(amount)}" if metric == "cost" else f"{amount} {_UNITS[metric]}"


def _no_credit(demand: Demand) -> RateLimitError:
    return RateLimitError(
        "The prepaid credit does not cover this request, which may cost up to "
        f"${dollars(demand.amount)}. Ask for less, with a smaller max_tokens, or have the credit"
        " topped up; GET /v1/me says what is left.",
        code="insufficient_quota",
        should_retry=False,
    )


def limit_headers(demands: Sequence[Demand], states: Sequence[State]) -> Headers:
    """Say how the limits stand: of several, the one that is nearest to its end.

    Pictures and texts are told as requests: they are what such a request is counted in.

    Source: OpenAI API reference, Rate limits, headers.
    """
    nearest: dict[bytes, tuple[Demand, State]] = {}
    for demand, state in zip(demands, states, strict=True):
        name = _TELLS.get(demand.counter.metric)
        if name and (name not in nearest or state.remaining < nearest[name][1].remaining):
            nearest[name] = (demand, state)
    headers: Headers = []
    for name, (demand, state) in nearest.items():
        headers += (
            (b"x-ratelimit-limit-" + name, b"%d" % demand.limit),
            (b"x-ratelimit-remaining-" + name, b"%d" % state.remaining),
            (b"x-ratelimit-reset-" + name, b"%ds" % ceil(state.reset_s)),
        )
    return headers


def _whose(counter: Counter, caller: Caller) -> str:
    if counter in caller.own:
        return "of this user"
    _, _, part = counter.subject.partition("/")
    if part.startswith("key:"):
        return "of this key"
    if part.startswith("model:"):
        return f"for {part.removeprefix('model:')}, tier {caller.tier}"
    return f"tier {caller.tier}"


class LimitsReader:
    """Tells callers what their limits leave them."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def left(self, caller: Caller) -> list[LimitLeft]:
        """Return how every limit of `caller` stands; asking uses nothing up."""
        rules = caller.rules + tuple(r for rules in caller.model_rules.values() for r in rules)
        demands = [Demand(rule.counter, rule.limit, 0) for rule in rules]
        asking = new_id()
        verdict = await self._limiter.reserve(asking, demands)
        await self._limiter.settle(asking, demands, {})
        return [_left(demand, state) for demand, state in zip(demands, verdict.states, strict=True)]


def _left(demand: Demand, state: State) -> LimitLeft:
    counter = demand.counter
    kind, _, name = counter.subject.partition("/")[2].partition(":")
    return LimitLeft(
        subject="key" if kind == "key" else "model" if kind == "model" else "user",
        model=name if kind == "model" else None,
        metric=counter.metric,
        period=counter.period,
        limit=demand.limit,
        remaining=state.remaining,
        reset_s=None if isinf(state.reset_s) else round(state.reset_s, 3),
    )
