"""The receipt of a request: the decisions that were taken about it, and what they rest on.

A request keeps while it runs what costs nothing to keep: what its limits said, its attempts, and
two moments. Nothing of it names a server's address or a key.
"""

from datetime import datetime, timedelta
from typing import Any

import orjson

from galley.core.caller import Caller
from galley.core.errors import NotFoundError
from galley.core.money import dollars
from galley.db.feedback import find_feedback, put_feedback
from galley.db.prices import find_price
from galley.db.receipts import find_receipt
from galley.db.requests import find_request
from galley.db.session import Sessions
from galley.db.tables import ApiRequest, utc_now
from galley.schemas.money import PriceReply
from galley.schemas.receipts import (
    AttemptReply,
    Detail,
    FeedbackReply,
    FeedbackRequest,
    FilterReply,
    LimitConsulted,
    QueueReply,
    ReceiptReply,
    Timings,
)
from galley.services.charge import Charge
from galley.services.usage import told

_LIMIT = ("subject", "metric", "period", "limit", "reserved", "remaining", "refused")
"""What is kept of a limit, in this order. What was kept before an upgrade is read after it."""


_OLDER_LIMIT = (
    "subject", "model", "metric", "period", "limit", "reserved", "remaining", "refused",
)  # fmt: skip


def receipt_of(charge: Charge) -> bytes:
    """Write down how a request came to its end; called for each, so it does little."""
    limits = [
        (*demand.counter, demand.limit, demand.amount, state.remaining, verdict.refused is demand)
        for demands, verdict in charge.consulted
        for demand, state in zip(demands, verdict.states, strict=True)
    ]
    told: dict[str, Any] = {
        "limits": limits,
        "attempts": charge.attempts,
        "admitted_ms": _rounded(charge.admitted_ms),
        "began_ms": _rounded(charge.began_ms),
    }
    if (ticket := charge.ticket) is not None:
        told["queue"] = (ticket.place, ticket.of, ticket.behind if ticket.granted else None)
    if charge.grounding is not None:
        told["retrieval"] = charge.grounding.retrieval.json_object()
    if charge.filtered is not None:
        told["filters"] = [(*key, count) for key, count in charge.filtered.items()]
    return orjson.dumps(told)


class Receipts:
    """Shows receipts, and takes what users say of answers.

    Args:
        days: how long the details are kept; 0 is as long as the request.
    """

    def __init__(self, sessions: Sessions, *, days: int) -> None:
        self._sessions = sessions
        self._days = days

    async def of(
        self, caller: Caller, request_id: str, *, now: datetime | None = None
    ) -> ReceiptReply:
        """Return the receipt of one of the caller's own requests; admins may see any.

        Raises:
            NotFoundError: there is no such request of theirs, or it was long ago.
        """
        owner = None if caller.may("admin:usage") else caller.user_id
        async with self._sessions() as session:
            row = await find_request(session, user_id=owner, request_id=request_id)
            if row is None:
                raise _unknown()
            price = await find_price(session, row.price_id) if row.price_id else None
            feedback = await find_feedback(session, row.request_id)
            kept = await find_receipt(session, row.request_id)
        return ReceiptReply(
            **told(row),
            user_id=row.user_id,
            cost_usd=dollars(row.cost),
            price=PriceReply.model_validate(price, from_attributes=True) if price else None,
            feedback=FeedbackReply.model_validate(feedback, from_attributes=True)
            if feedback
            else None,
            detail=_detail(row, orjson.loads(kept)) if kept else None,
            note=None if kept else self._why_not(row, now or utc_now()),
        )

    async def say(
        self, caller: Caller, request_id: str, said: FeedbackRequest, *, now: datetime | None = None
    ) -> FeedbackReply:
        """Keep what a user says of one of their own requests.

        Raises:
            NotFoundError: they have made no such request.
        """
        async with self._sessions.begin() as session:
            row = await find_request(session, user_id=caller.user_id, request_id=request_id)
            if row is None:
                raise _unknown()
            reply = FeedbackReply(
                request_id=row.request_id,
                score=said.value,
                comment=said.comment,
                created_at=now or utc_now(),
            )
            await put_feedback(
                session,
                request_id=row.request_id,
                score=reply.score,
                comment=reply.comment,
                now=reply.created_at,
            )
        return reply

    def _why_not(self, row: ApiRequest, now: datetime) -> str:
        if row.state == "open":
            return "The request has not ended yet."
        if row.state == "interrupted":
            return "The server died before it could write the details down."
        if self._days and row.created_at < now - timedelta(days=self._days):
            return f"The details are kept for {self._days} days, and these were deleted."
        return "No details were written down."


def _detail(row: ApiRequest, kept: dict[str, Any]) -> Detail:
    admitted, began = kept["admitted_ms"], kept["began_ms"]
    queued = None if admitted is None or began is None else round(began - admitted, 3)
    return Detail(
        limits=list(map(_limit, kept["limits"])),
        attempts=[AttemptReply(**attempt) for attempt in kept["attempts"]],
        queue=_queue(kept["queue"]) if "queue" in kept else None,
        filters=list(map(_filter, kept.get("filters", ()))),
        timings=Timings(
            admitted_ms=admitted,
            queued_ms=queued,
            first_token_ms=_rounded(row.first_token_ms),
            total_ms=_rounded(row.response_time_ms),
        ),
        retrieval=kept.get("retrieval"),
    )


def _filter(kept: list[Any]) -> FilterReply:
    return FilterReply(**dict(zip(("rule", "found", "action", "on", "count"), kept, strict=True)))


def _queue(kept: list[Any]) -> QueueReply:
    return QueueReply(**dict(zip(("position", "of", "behind"), kept, strict=True)))


def _limit(kept: list[Any]) -> LimitConsulted:
    if len(kept) == len(_OLDER_LIMIT):
        return LimitConsulted(**dict(zip(_OLDER_LIMIT, kept, strict=True)))
    found: dict[str, Any] = dict(zip(_LIMIT, kept, strict=True))
    kind, _, name = found["subject"].partition("/")[2].partition(":")
    found["subject"], found["model"] = kind or "user", name if kind == "model" else None
    return LimitConsulted(**found)


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)


def _unknown() -> NotFoundError:
    return NotFoundError("There is no such request.", code="request_not_found")
