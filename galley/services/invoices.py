"""Invoices: what a calendar month came to. Worked out from the daily sums, and kept nowhere."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.errors import NotFoundError
from galley.core.money import dollars
from galley.db.session import Sessions
from galley.db.spent import costs
from galley.db.tables import User, utc_now
from galley.db.usage import Span, Sums, usage_by_model_and_endpoint, usage_by_month
from galley.schemas.money import InvoiceLine, InvoiceList, InvoiceMonth, InvoiceReply
from galley.services.people import find_known

LATEST_SETTLEMENT = timedelta(hours=1)
"""A request counts for the hour in which it came, and none may run longer than that."""


class Invoices:
    """Writes invoices for users; a month is one of UTC's calendar."""

    def __init__(self, sessions: Sessions, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._sessions = sessions
        self._clock = clock

    async def list(self, user_id: str) -> InvoiceList:
        """List the months in which `user_id` asked for anything, the latest first."""
        async with self._sessions() as session:
            months = await usage_by_month(session, Span(user_id))
        return InvoiceList(data=[self._month(first, sums) for first, sums in months])

    async def of(self, user_id: str, month: str) -> InvoiceReply:
        """Write the invoice of a month, such as 2026-11.

        Raises:
            NotFoundError: there is no such user, or they asked for nothing in that month; the one
                that runs has an invoice anyway.
        """
        first = date.fromisoformat(f"{month}-01")
        async with self._sessions() as session:
            user = await find_known(session, user_id)
            span = Span(user.id, first, _next(first) - timedelta(days=1))
            found = await usage_by_model_and_endpoint(session, span)
            cost = sum(sums.cost for _, _, sums in found)
            paid = await _paid(session, user, first, cost)
        if not found and first != self._clock().date().replace(day=1):
            raise NotFoundError(f"There is no invoice for {month}.", code="invoice_not_found")
        due = cost - (paid or 0)
        return InvoiceReply(
            month=month,
            final=self._is_final(first),
            user_id=user.id,
            email=user.email,
            name=user.name,
            lines=[_line(model, endpoint, sums) for model, endpoint, sums in found],
            cost=cost,
            total=dollars(cost),
            paid=paid,
            paid_amount=None if paid is None else dollars(paid),
            due=due,
            due_amount=dollars(due),
        )

    def _month(self, first: date, sums: Sums) -> InvoiceMonth:
        return InvoiceMonth(
            month=f"{first:%Y-%m}",
            final=self._is_final(first),
            requests=sums.requests,
            cost=sums.cost,
            total=dollars(sums.cost),
        )

    def _is_final(self, first: date) -> bool:
        end = datetime.combine(_next(first), datetime.min.time(), UTC)
        return self._clock() >= end + LATEST_SETTLEMENT


async def _paid(session: AsyncSession, user: User, first: date, cost: int) -> int | None:
    """What of a month's `cost` came after the first credit, and so was paid from it.

    What credit does not cover, because Redis was lost or it came to a request that ran, is due.
    """
    if user.credit is None:
        return None
    before = (await costs(session, [user.id], before=first))[user.id]
    covered = min(before + cost, user.credit)
    return max(0, covered - max(before, user.spent_before_credit))


def _next(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


def _line(model: str, endpoint: str, sums: Sums) -> InvoiceLine:
    return InvoiceLine(
        model=model,
        endpoint=endpoint,
        requests=sums.requests,
        prompt_tokens=sums.prompt_tokens,
        completion_tokens=sums.completion_tokens,
        units=sums.units,
        cost=sums.cost,
        amount=dollars(sums.cost),
    )
