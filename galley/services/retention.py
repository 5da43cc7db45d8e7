"""Retention: what is kept of single requests is kept for so many days, their sums for ever."""

import asyncio
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.batches import delete_batches
from galley.db.feedback import delete_feedback
from galley.db.jobs import delete_jobs
from galley.db.months import drop_month, end_of, find_old_month
from galley.db.receipts import delete_receipts
from galley.db.responses import delete_responses
from galley.db.retention import delete_requests, mark_whole_from, whole_from
from galley.db.session import Sessions
from galley.db.tables import utc_now

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
LONGEST_S = 0.05
"""How long one transaction may take: the ledger waits for it where the database is SQLite."""
FIRST_BATCH = 50
MOST = 5_000
RESPONSES_AT_ONCE = 20
"""Each may have megabytes."""
RECEIPTS_AT_ONCE = 1_000
JOBS_AT_ONCE = 100


class Delete(Protocol):
    """Deletes the oldest from before a moment, `limit` at most; returns how many."""

    async def __call__(self, session: AsyncSession, *, before: datetime, limit: int) -> int: ...


class RetentionService:
    """Deletes requests that are older than `days`; 0 keeps all. The sums of usage stay.

    Whole hours go, so that every other hour can still be held to its sums. Responses that are older
    than `response_days` go as well, so do jobs that have ended, and receipts, which never outlive
    their requests.
    """

    def __init__(
        self,
        sessions: Sessions,
        days: int,
        *,
        response_days: int = 0,
        receipt_days: int = 0,
        job_days: int = 0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._days = days
        self._response_days = response_days
        self._receipt_days = receipt_days
        self._job_days = job_days
        self._clock = clock
        self._batch = FIRST_BATCH

    async def keep(self) -> None:
        """Delete what is old, from time to time, until cancelled."""
        while self._days or self._response_days or self._receipt_days or self._job_days:
            try:
                await self.delete_old()
                await self.delete_old_responses()
                await self.delete_old_receipts()
                await self.delete_old_jobs()
                await self.delete_old_batches()
            except (SQLAlchemyError, OSError) as error:
                log.warning("retention_failed", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def delete_old(self) -> int:
        """Delete what is old now, in small transactions, and give way between them.

        Months that are old as a whole are dropped, where each is a table of its own.

        Returns:
            How many requests there were.
        """
        if not self._days:
            return 0
        oldest = self._clock() - timedelta(days=self._days)
        before = oldest.replace(minute=0, second=0, microsecond=0)
        count = await self._drop_months(before)
        while gone := await self._delete_some(before):
            count += gone
        if count:
            log.info("requests_deleted", count=count, before=before.isoformat())
        return count

    async def delete_old_responses(self) -> int:
        """Delete responses that are old now, in the same way.

        Returns:
            How many there were.
        """
        return await self._delete_by_id(
            "responses", self._response_days, delete_responses, RESPONSES_AT_ONCE
        )

    async def delete_old_receipts(self) -> int:
        """Delete receipts that are old now, in the same way.

        Returns:
            How many there were.
        """
        return await self._delete_by_id(
            "receipts", self._receipt_days, delete_receipts, RECEIPTS_AT_ONCE
        )

    async def delete_old_jobs(self) -> int:
        """Delete jobs that have ended and are old now, in the same way.

        Returns:
            How many there were.
        """
        return await self._delete_by_id("jobs", self._job_days, delete_jobs, JOBS_AT_ONCE)

    async def delete_old_batches(self) -> int:
        """Delete batches that have ended and are as old, in the same way.

        Returns:
            How many there were.
        """
        return await self._delete_by_id("batches", self._job_days, delete_batches, JOBS_AT_ONCE)

    async def _delete_by_id(self, what: str, days: int, delete: Delete, at_once: int) -> int:
        if not days:
            return 0
        before = self._clock() - timedelta(days=days)
        count = await self._delete_before(before, delete, at_once)
        if count:
            log.info(f"{what}_deleted", count=count, before=before.isoformat())
        return count

    async def _delete_before(self, before: datetime, delete: Delete, at_once: int) -> int:
        count, gone = 0, at_once
        while gone == at_once:
            began = time.perf_counter()
            async with self._sessions.begin() as session:
                gone = await delete(session, before=before, limit=at_once)
            count += gone
            await asyncio.sleep(time.perf_counter() - began)
        return count

    async def _drop_months(self, before: datetime) -> int:
        count = 0
        while (month := await self._old_month(before)) is not None:
            end = end_of(month)
            for delete in (delete_receipts, delete_feedback):
                await self._delete_before(end, delete, RECEIPTS_AT_ONCE)
            try:
                async with self._sessions.begin() as session:
                    gone = await drop_month(session, month)
                    if gone:
                        await mark_whole_from(session, end)
            except DBAPIError as error:  # somebody reads it, and for long: the next time, then
                log.warning("month_not_dropped", month=f"{month:%Y-%m}", error=str(error.orig))
                break
            if gone is None:
                break
            count += gone
        return count

    async def _old_month(self, before: datetime) -> date | None:
        async with self._sessions() as session:
            return await find_old_month(session, before=before)

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
