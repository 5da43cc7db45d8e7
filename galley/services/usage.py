"""What requests came to: a caller's own, and everybody's."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any

from galley.core.caller import Caller
from galley.core.errors import BadRequestError
from galley.db.requests import Wanted, recent_requests
from galley.db.session import Sessions
from galley.db.tables import ApiRequest
from galley.db.usage import Group, Span, Sums, total, usage_by
from galley.schemas.usage import (
    AdminGroupBy,
    GroupBy,
    LimitLeft,
    RequestList,
    RequestReply,
    UsageReport,
    UsageRow,
    UsageSummary,
)

MOST_ROWS = 1000

LimitsLeft = Callable[[Caller], Awaitable[list[LimitLeft]]]
"""Says how the limits of a caller stand."""


class UsageService:
    """Reads the daily sums, so that the cost of asking does not grow with the ledger.

    Args:
        limits_left: what is told of the caller's limits; without it, nothing is.
    """

    def __init__(self, sessions: Sessions, limits_left: LimitsLeft | None = None) -> None:
        self._sessions = sessions
        self._limits_left = limits_left

    async def summary(
        self,
        caller: Caller,
        *,
        first: date | None = None,
        last: date | None = None,
        by: GroupBy | None = None,
    ) -> UsageSummary:
        """Sum up the caller's own requests.

        Args:
            first: the first day, of UTC, that counts; and `last` the last one. None is no bound.
            by: what to add up by besides.
        Raises:
            BadRequestError: `last` is before `first`.
        """
        report = await self._report(Span(caller.user_id, first, last), by)
        limits = await self._limits_left(caller) if self._limits_left else []
        return UsageSummary(**dict(report), limits=limits)

    async def everyones(
        self, *, first: date | None = None, last: date | None = None, by: AdminGroupBy | None = None
    ) -> UsageReport:
        """Sum up the requests of all; as `summary`."""
        return await self._report(Span(None, first, last), by)

    async def requests(
        self, caller: Caller, wanted: Wanted, *, after: str | None = None, limit: int = 50
    ) -> RequestList:
        """List the caller's own requests, the latest first.

        Raises:
            BadRequestError: `after` is not an id.
        """
        async with self._sessions() as session:
            page = await recent_requests(
                session, user_id=caller.user_id, wanted=wanted, after=after, limit=limit
            )
        after = (page.after or page.rows[-1].request_id) if page.has_more else None
        data = [RequestReply.model_validate(told(row)) for row in page.rows]
        return RequestList(data=data, has_more=page.has_more, next_after=after)

    async def _report(self, span: Span, by: GroupBy | AdminGroupBy | None) -> UsageReport:
        if span.first is not None and span.last is not None and span.last < span.first:
            raise BadRequestError(
                "`to` is before `from`. Both days are included.", code="invalid_range", param="to"
            )
        async with self._sessions() as session:
            endpoints, groups = await usage_by(session, span, by)
        return _report(endpoints, groups)


def _report(endpoints: Mapping[str, Sums], groups: list[Group]) -> UsageReport:
    found = total(*endpoints.values())
    count = found.requests
    return UsageReport(
        total_requests=count,
        successful_requests=found.successes,
        success_rate=round(100 * found.successes / count, 2) if count else 0.0,
        avg_response_time_ms=round(found.response_time_ms / count, 2) if count else 0.0,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        units=found.units,
        cost=found.cost,
        by_endpoint={name: sums.requests for name, sums in endpoints.items()},
        rows=[_row(group) for group in groups[:MOST_ROWS]],
        has_more=len(groups) > MOST_ROWS,
    )


def _row(group: Group) -> UsageRow:
    sums = group.sums
    return UsageRow(
        group=group.group,
        name=group.name,
        requests=sums.requests,
        successful_requests=sums.successes,
        prompt_tokens=sums.prompt_tokens,
        completion_tokens=sums.completion_tokens,
        units=sums.units,
        cost=sums.cost,
    )


def told(row: ApiRequest) -> dict[str, Any]:
    """Say what the ledger has of a request, in the words of `RequestReply`."""
    columns = RequestReply.model_fields.keys() & ApiRequest.__table__.columns.keys()
    ignored = row.ignored_fields.split(",") if row.ignored_fields else []
    return {name: getattr(row, name) for name in columns} | {
        "id": row.request_id,
        "ignored_fields": ignored,
    }
