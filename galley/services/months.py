"""The months of the ledger: each is made before it comes."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.db.months import look_ahead
from galley.db.session import Sessions
from galley.db.tables import utc_now

log = structlog.get_logger(__name__)

EVERY_S = 3600.0


class Months:
    """Sees to it that PostgreSQL has a partition for the requests of this month and the next ones.

    Where that fails for months, or a clock is wrong, requests are kept in a partition for the rest;
    the log says so.
    """

    def __init__(self, sessions: Sessions, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._sessions = sessions
        self._clock = clock

    async def look(self) -> None:
        """Make what is missing."""
        try:
            async with self._sessions.begin() as session:
                made = await look_ahead(session, now=self._clock())
        except (SQLAlchemyError, OSError) as error:
            log.warning("months_not_made", error=str(error))
            return
        if made.months:
            log.info("months_made", months=[f"{month:%Y-%m}" for month in made.months])
        if made.homeless:
            log.warning("requests_in_no_month", count=made.homeless)

    async def keep(self) -> None:
        """Do so from time to time, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()
