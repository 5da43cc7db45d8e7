"""The job that says what a user's requests came to, and what stands out."""

import asyncio
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Row

from galley.db.session import Sessions
from galley.db.tables import ApiRequest, utc_now
from galley.db.usage import Group, Span, Sums, total, usage_by
from galley.db.walks import Stretch, count_requests, walk_requests
from galley.schemas.jobs import AnalyseUsageParams
from galley.services.job_kinds import JobRun

MOST_LOOKED_AT = 200_000
"""Requests that are looked at one by one, the latest; sums are of all."""

MOST_LISTED = 100
_COLUMNS = (
    ApiRequest.state,
    ApiRequest.error_code,
    ApiRequest.served_model,
    ApiRequest.response_time_ms,
    ApiRequest.created_at,
)


class UsageAnalyses:
    """Analyses the usage of a user: sums from the rollups, times and errors from the requests."""

    def __init__(self, sessions: Sessions, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._sessions = sessions
        self._clock = clock

    async def run(self, run: JobRun) -> dict[str, Any]:
        """Analyse some days up to today, beside as many before them; costs in micro-dollars."""
        params = AnalyseUsageParams.model_validate(run.params)
        now, user_id = self._clock(), run.caller.user_id
        last = now.date()
        first = last - timedelta(days=params.days - 1)
        span = Span(user_id, first, last)
        sums, models = await self._groups(span, "model")
        _, days = await self._groups(span, "day")
        earlier = first - timedelta(days=params.days), first - timedelta(days=1)
        before = total(*(await self._groups(Span(user_id, *earlier), "model"))[0].values())
        seen = await self._look(run, first, now)
        return {
            "from": first.isoformat(),
            "to": last.isoformat(),
            "totals": _told(total(*sums.values())),
            "change_percent": _change(before, total(*sums.values())),
            "by_model": [_named(group) for group in models[:MOST_LISTED]],
            "by_endpoint": [{"endpoint": name} | _told(found) for name, found in sums.items()],
            "by_day": [{"day": group.group} | _told(group.sums) for group in days],
            **await asyncio.to_thread(seen.told),
        }

    async def _groups(self, span: Span, by: Any) -> tuple[dict[str, Sums], list[Group]]:
        async with self._sessions() as session:
            endpoints, groups = await usage_by(session, span, by)
        return dict(endpoints), groups

    async def _look(self, run: JobRun, first: date, now: datetime) -> "_Seen":
        """Look at single requests, as far as they are kept."""
        since = datetime(first.year, first.month, first.day, tzinfo=now.tzinfo)
        stretch = Stretch(run.caller.user_id, since, now)
        count = min(await count_requests(self._sessions, stretch), MOST_LOOKED_AT)
        seen = _Seen()
        await run.progress(0, count, "requests looked at")
        walk = walk_requests(self._sessions, stretch, *_COLUMNS, latest_first=True)
        async with aclosing(walk) as pages:
            async for rows in pages:
                seen.add(rows)
                await run.progress(min(seen.count, count), count, "requests looked at")
                if seen.count >= MOST_LOOKED_AT:
                    break
        return seen


class _Seen:
    """What single requests have shown."""

    def __init__(self) -> None:
        self.count = 0
        self._errors: Counter[str] = Counter()
        self._hours: Counter[datetime] = Counter()
        self._times: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))

    def add(self, rows: Sequence[Row[*tuple[Any, ...]]]) -> None:
        """Take some more into account."""
        self.count += len(rows)
        for _, state, error_code, model, ms, created_at in rows:
            self._hours[created_at.replace(minute=0, second=0, microsecond=0)] += 1
            if error_code is not None:
                self._errors[error_code] += 1
            if state == "completed" and ms is not None:
                self._times[model or ""].append(ms)

    def told(self) -> dict[str, Any]:
        """Sum it up; not for the event loop's thread."""
        latency = [
            {"model": model} | _quantiles([times]) for model, times in sorted(self._times.items())
        ]
        hour = max(self._hours, key=lambda at: (self._hours[at], at), default=None)
        return {
            "requests_looked_at": self.count,
            "errors": [
                {"code": code, "requests": count, "percent": _share(count, self.count)}
                for code, count in self._errors.most_common(MOST_LISTED)
            ],
            "latency_ms": _quantiles(self._times.values()) if self._times else None,
            "latency_ms_by_model": latency[:MOST_LISTED],
            "busiest_hour": hour and {"hour": hour.isoformat(), "requests": self._hours[hour]},
        }


def _quantiles(times: Iterable["array[float]"]) -> dict[str, float]:
    values = np.concatenate([np.frombuffer(part) for part in times])
    p50, p95, p99, most = np.quantile(values, (0.5, 0.95, 0.99, 1.0))
    rounded = {"p50": p50, "p95": p95, "p99": p99, "max": most}
    return {name: round(float(value), 2) for name, value in rounded.items()}


def _told(sums: Sums) -> dict[str, Any]:
    count = sums.requests
    return {
        "requests": count,
        "successful_requests": sums.successes,
        "success_rate": _share(sums.successes, count),
        "prompt_tokens": sums.prompt_tokens,
        "completion_tokens": sums.completion_tokens,
        "units": sums.units,
        "cost": sums.cost,
        "avg_response_time_ms": round(sums.response_time_ms / count, 2) if count else 0.0,
    }


def _named(group: Group) -> dict[str, Any]:
    return {"model": group.group} | _told(group.sums)


def _change(before: Sums, now: Sums) -> dict[str, float | None]:
    """How much more it was than in as many days before; None where there was nothing."""
    names = ("requests", "prompt_tokens", "completion_tokens", "cost")
    pairs = {name: (getattr(before, name), getattr(now, name)) for name in names}
    return {n: round(100 * (b - a) / a, 1) if a else None for n, (a, b) in pairs.items()}


def _share(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
