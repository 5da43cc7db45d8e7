"""Long ways through a user's requests, some at a time, so that nobody waits for their end."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, func, select

from galley.db.requests import first_id
from galley.db.session import Sessions
from galley.db.tables import ApiRequest

AT_ONCE = 1_000


class Stretch(NamedTuple):
    """The requests of a user that came from one moment on, and before another."""

    user_id: str
    since: datetime
    until: datetime

    @property
    def conditions(self) -> Sequence[ColumnElement[bool]]:
        """What their rows fulfil."""
        return (
            ApiRequest.user_id == self.user_id,
            ApiRequest.request_id >= first_id(self.since),
            ApiRequest.request_id < first_id(self.until),
        )


async def count_requests(sessions: Sessions, stretch: Stretch) -> int:
    """How many requests there are."""
    query = select(func.count()).select_from(ApiRequest).where(*stretch.conditions)
    async with sessions() as session:
        return await session.scalar(query) or 0


async def walk_requests(
    sessions: Sessions, stretch: Stretch, *columns: Any, latest_first: bool = False
) -> AsyncGenerator[Sequence[Row[*tuple[Any, ...]]]]:
    """Yield requests in the order of time, `AT_ONCE` at a time: the id and what is asked for.

    Args:
        columns: of `ApiRequest`, or itself.
    """
    asked = select(ApiRequest.request_id, *columns).where(*stretch.conditions)
    order = ApiRequest.request_id.desc() if latest_first else ApiRequest.request_id
    query = asked.order_by(order).limit(AT_ONCE)
    while True:
        async with sessions() as session:
            rows = (await session.execute(query)).all()
        if rows:
            yield rows
        if len(rows) < AT_ONCE:
            return
        last = rows[-1][0]
        further = ApiRequest.request_id < last if latest_first else ApiRequest.request_id > last
        query = asked.where(further).order_by(order).limit(AT_ONCE)
