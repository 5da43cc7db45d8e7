"""Retention: requests are kept for so many days, what they came to for ever."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.db.retention import delete_requests, mark_whole_from, whole_from
from galley.db.session import Sessions
from galley.db.tables import utc_now

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
LONGEST_S = 0.05
"""How long one transaction may take: the ledger waits for it where the database is SQLite."""
FIRST_BATCH = 50
MOST = 5_000


class RetentionService:
    """Deletes requests that are older than `days`; 0 keeps all. The sums of usage stay.

    Whole hours go, so that every other hour can still be held to its sums.
    """

    def __init__(
        self, sessions: Sessions, days: int, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._sessions = sessions
        self._days = days
        self._clock = clock
        self._batch = FIRST_BATCH

    async def keep(self) -> None:
        """Delete what is old, from time to time, until cancelled."""
        while self._days:
            try:
                await self.delete_old()
            except (SQLAlchemyError, OSError) as error:
                log.warning("retention_failed", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def delete_old(self) -> int:
        """Delete what is old now, in small transactions, and give way between them.

        Returns:
            How many requests there were.
        """
        if not self._days:
            return 0
        oldest = self._clock() - timedelta(days=self._days)
        before = oldest.replace(minute=0, second=0, microsecond=0)
        count = 0
        while gone := await self._delete_some(before):
            count += gone
        if count:
            log.info("requests_deleted", count=count, before=before.isoformat())
        return count

    async def _delete_some(self, before: datetime) -> int:
        began = time.perf_counter()
        async with self._sessions.begin() as session:
            gone = await delete_requests(session, before=before, limit=self._batch)
            if gone and await whole_from(session) != before:
                await mark_whole_from(session, before)
        took = time.perf_counter() - began
        # As many as fit into half of the time, so that a slow moment does not overrun it.
        fitting = int(self._batch * LONGEST_S / 2 / max(took, 1e-6))
        self._batch = max(1, min(fitting, 2 * self._batch, MOST))
        await asyncio.sleep(took)
        return gone
