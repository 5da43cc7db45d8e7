"""What the ledger says of limits: how much was used since then, and what requests came to."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.limits import Counter, Metric
from galley.db.record import Record
from galley.db.requests import first_id
from galley.db.tables import ApiRequest, UsageDaily, UsageHourly

# A refused request uses nothing up.
_USED = ("completed", "failed", "cancelled")
_SUMS: Mapping[Metric, ColumnElement[int]] = {
    "tokens": UsageHourly.prompt_tokens + UsageHourly.completion_tokens,
    "images": UsageHourly.units + 0,
    "texts": UsageHourly.units + 0,
    "cost": UsageHourly.cost + 0,
}
_TEXTS = ("embeddings", "rerank", "moderations", "documents", "retrieve")
"""Their units are texts; everywhere else they are pictures."""


async def spent(session: AsyncSession, counter: Counter, since: datetime) -> int:
    """How far `counter` has come since a full hour; `concurrency` is never looked up.

    Of what counts for ever, there is the money of a user alone.
    """
    user, _, part = counter.subject.removeprefix("user:").partition("/")
    kind, _, name = part.partition(":")
    if counter.period == "ever":
        return (await costs(session, [user]))[user]
    if counter.metric == "requests":
        return await _requests(session, user, kind, name, since)
    query = select(func.coalesce(func.sum(_SUMS[counter.metric]), 0)).where(
        UsageHourly.user_id == user, UsageHourly.hour >= since
    )
    if counter.metric == "texts":
        query = query.where(UsageHourly.endpoint.in_(_TEXTS))
    elif counter.metric == "images":
        query = query.where(UsageHourly.endpoint.not_in(_TEXTS))
    if kind:
        column = UsageHourly.key_id if kind == "key" else UsageHourly.served_model
        query = query.where(column == name)
    return int(await session.scalar(query) or 0)


async def costs(
    session: AsyncSession, user_ids: Sequence[str], *, before: date | None = None
) -> dict[str, int]:
    """What each of `user_ids` has spent, ever or before a day, in micro-dollars."""
    query = (
        select(UsageDaily.user_id, func.sum(UsageDaily.cost))
        .where(UsageDaily.user_id.in_(user_ids))
        .group_by(UsageDaily.user_id)
    )
    if before is not None:
        query = query.where(UsageDaily.day < before)
    found = (await session.execute(query)).all()
    return dict.fromkeys(user_ids, 0) | {row[0]: int(row[1]) for row in found}


async def outcomes(
    session: AsyncSession, request_ids: Sequence[str]
) -> Mapping[str, Mapping[Metric, int]]:
    """What those of `request_ids` used that settled; who was interrupted used nothing."""
    query = select(ApiRequest).where(
        ApiRequest.request_id.in_(request_ids), ApiRequest.state.in_(_USED)
    )
    return {row.request_id: used(row) for row in (await session.scalars(query)).all()}


def used(row: ApiRequest | Record) -> Mapping[Metric, int]:
    """What a settled request takes of its owner's limits: nothing, if it was refused."""
    if row.state not in _USED:
        return {}
    units: Metric = "texts" if row.endpoint in _TEXTS else "images"
    tokens = row.prompt_tokens + row.completion_tokens
    return {"requests": 1, "tokens": tokens, units: row.units, "cost": row.cost}


async def _requests(session: AsyncSession, user: str, kind: str, name: str, since: datetime) -> int:
    # Refusals are in the hourly sums, so requests are counted one by one, by the index of a
    # user's requests in order of time; that happens once a day and user.
    query = (
        select(func.count())
        .select_from(ApiRequest)
        .where(
            ApiRequest.user_id == user,
            ApiRequest.request_id >= first_id(since),
            ApiRequest.state.in_(_USED),
        )
    )
    if kind:
        query = query.where(
            (ApiRequest.key_id if kind == "key" else ApiRequest.served_model) == name
        )
    return await session.scalar(query) or 0
