"""Looks after jobs whose server died, and knows how many jobs there are."""

from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from galley.core.errors import InternalError
from galley.db.job_leases import count_by_status, expired_jobs
from galley.db.session import Sessions
from galley.db.tables import utc_now
from galley.db.webhooks import announce
from galley.db.work_tables import Job
from galley.services.job_lines import appended

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 3


class JobKeeper:
    """Gives jobs back whose lease has run out; `counts` is how many there were, by state."""

    def __init__(self, sessions: Sessions, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._sessions = sessions
        self._clock = clock
        self.counts: Mapping[str, int] = {}

    async def look(self) -> None:
        """Give back what the dead held, and count anew."""
        await self.recover()
        async with self._sessions() as session:
            self.counts = await count_by_status(session)

    async def recover(self, *, alone: bool = False) -> int:
        """Give back what the dead held: it is due again, or has failed after the last attempt.

        Args:
            alone: nobody else does jobs, and nothing runs here yet, so all that runs is dead.
        Returns:
            How many jobs there were.
        """
        now, count = self._clock(), 0
        while given := await self._give_back_some(now, None if alone else now):
            count += given
        return count

    async def _give_back_some(self, now: datetime, before: datetime | None) -> int:
        async with self._sessions() as session:  # to read hinders nobody
            if not await expired_jobs(session, now=before):
                return 0
        async with self._sessions.begin() as session:
            jobs = await expired_jobs(session, now=before, change=True)
            for job in jobs:
                _give_back(job, now)
                if job.status == "failed":
                    await session.flush()
                    await announce(session, job.id, now=now)
        return len(jobs)


def _give_back(job: Job, now: datetime) -> None:
    job.lease = job.leased_until = None
    lost = f"its server died during attempt {job.attempts}"
    if job.attempts < MOST_ATTEMPTS:
        job.status, job.due_at = "queued", now
        job.log = appended(job.log, now, "interrupted", lost)
    else:
        job.status, job.finished_at = "failed", now
        said = f"The server died {job.attempts} times while it did this job."
        error = InternalError(said, code="job_lost")
        job.error_code, job.error_message = error.code, error.message
        job.log = appended(job.log, now, "ended", lost)
    log.warning("job_interrupted", job_id=job.id, request_id=job.request_id, status=job.status)
