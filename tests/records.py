"""Records for the ledger, and what became of them in the database."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.record import Record
from galley.db.requests import first_id
from galley.db.session import Database
from galley.db.tables import ApiRequest, UsageDaily, UsageHourly, User, new_id

THIS_SERVER, DEAD_SERVER = new_id(), new_id()


def new_record(**fields: Any) -> Record:
    """The record of a request that begins now, of a user of its own unless `fields` say whose."""
    known: dict[str, Any] = {
        "request_id": new_id(),
        "instance_id": THIS_SERVER,
        "user_id": new_id(),
        "key_id": new_id(),
        "endpoint": "chat/completions",
    }
    return Record(**known | fields)


def id_at(moment: datetime) -> str:
    """An id that a request gets that comes at that moment."""
    return first_id(moment)[:14] + new_id()[14:]


def finished(record: Record, **fields: Any) -> Record:
    """The same record after a good answer, or what `fields` say came of it."""
    known: dict[str, Any] = {
        "state": "completed",
        "status": 200,
        "served_model": "small",
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "response_time_ms": 12.5,
    }
    for name, value in (known | fields).items():
        setattr(record, name, value)
    return record


async def count_users(session: AsyncSession) -> int:
    """How many users there are."""
    return await session.scalar(select(func.count()).select_from(User)) or 0


async def states(session: AsyncSession) -> dict[str, str]:
    """How far each request got, by id."""
    rows = await session.execute(select(ApiRequest.request_id, ApiRequest.state))
    return {row.request_id: row.state for row in rows}


async def stored_requests(database: Database) -> Sequence[ApiRequest]:
    """All requests in the database, oldest first."""
    async with database.sessions() as session:
        return (await session.scalars(select(ApiRequest).order_by(ApiRequest.request_id))).all()


async def stored_sums(database: Database) -> Sequence[UsageHourly]:
    """All hourly sums."""
    async with database.sessions() as session:
        order = (UsageHourly.hour, UsageHourly.endpoint, UsageHourly.served_model)
        return (await session.scalars(select(UsageHourly).order_by(*order))).all()


async def stored_days(database: Database) -> Sequence[UsageDaily]:
    """All daily sums."""
    async with database.sessions() as session:
        order = (UsageDaily.day, UsageDaily.endpoint, UsageDaily.served_model)
        return (await session.scalars(select(UsageDaily).order_by(*order))).all()
