"""Takes jobs whose turn it is, has them done in this process, and holds their leases meanwhile."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.core.errors import GalleyError
from galley.db.job_leases import claim_job, next_due, renew_leases
from galley.db.session import Sessions
from galley.db.tables import new_id, utc_now
from galley.db.work_tables import Job
from galley.services.job_attempt import Attempt, Desk
from galley.services.job_keeper import MOST_ATTEMPTS, JobKeeper
from galley.services.job_kinds import Kind
from galley.services.job_lines import appended
from galley.services.unbroken import unbroken

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=30)
BEAT_S = 10.0
LOOK_S = 2.0
"""How often a runner looks for what has become due, besides being told."""


class JobRunner:
    """Does jobs in this process.

    Args:
        concurrency: jobs that run here at the same time.
        most_running: jobs of one user that run at the same time, here and elsewhere.
    """

    def __init__(
        self,
        sessions: Sessions,
        kinds: Mapping[str, Kind],
        desk: Desk,
        keeper: JobKeeper,
        *,
        concurrency: int,
        most_running: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._kinds = kinds
        self._desk = desk
        self._keeper = keeper
        self._concurrency = concurrency
        self._most_running = most_running
        self._clock = clock
        self._due = asyncio.Event()
        self._closed = False
        self._held: dict[str, tuple[Attempt, asyncio.Task[None]]] = {}  # by lease

    async def start(self, job_id: str) -> None:
        """Look for work now."""
        self._due.set()

    def stop(self, job_id: str) -> None:
        """Stop a job that was cancelled, if it runs here."""
        for attempt, task in self._held.values():
            if attempt.job.id == job_id:
                _stop(task)

    async def keep(self) -> None:
        """Do what is due, until cancelled."""
        while True:
            self._due.clear()
            try:
                await self._fill()
            except (SQLAlchemyError, OSError) as error:
                log.warning("jobs_not_read", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._due.wait()

    async def work(self) -> None:
        """Do what is due, one by one, until nothing is; for workers."""
        while not self._closed and (task := await unbroken(self._take())) is not None:
            await asyncio.wait({task})

    async def beat(self) -> None:
        """Hold the jobs that run here, and take over those of the dead, until cancelled."""
        while True:
            try:
                await self.renew()
                await self.dismiss()
                await self._keeper.look()
            except (SQLAlchemyError, OSError) as error:
                log.warning("leases_not_renewed", error=str(error))
            await asyncio.sleep(BEAT_S)

    async def renew(self) -> None:
        """Hold the jobs that run here for one more lease, and stop those that are lost."""
        if not (held := dict(self._held)):
            return
        async with self._sessions.begin() as session:
            kept = await renew_leases(session, held, until=self._clock() + LEASE)
        for lease in held.keys() - kept:
            _stop(held[lease][1])

    async def dismiss(self) -> None:
        """Stop what runs here for who may not have it done any more: its next attempt says so."""
        for attempt, task in list(self._held.values()):
            try:
                await attempt.admit()
            except GalleyError:
                _stop(task)

    def close(self) -> None:
        """Begin nothing more, and stop what runs: it is done elsewhere, or after the next start."""
        self._closed = True
        for _, task in self._held.values():
            _stop(task)

    async def aclose(self) -> None:
        """The same, and wait until it has stopped."""
        self.close()
        tasks = [task for _, task in self._held.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(self) -> None:
        """Begin as many jobs as there is room for."""
        while len(self._held) < self._concurrency and not self._closed:
            if await unbroken(self._take()) is None:
                return

    async def _take(self) -> "asyncio.Task[None] | None":
        """Begin the job whose turn it is; None where nothing is due."""
        job = await self._claim()
        return None if job is None else self._begin(job)

    async def _claim(self) -> Job | None:
        now = self._clock()
        async with self._sessions() as session:  # to read hinders nobody
            due = await next_due(session)
        if due is None or due > now:
            return None
        async with self._sessions.begin() as session:
            job = await claim_job(
                session,
                lease=new_id(), now=now, until=now + LEASE, most_running=self._most_running,
            )  # fmt: skip
            if job is not None:
                said = f"attempt {job.attempts} of {MOST_ATTEMPTS}"
                job.log = appended(job.log, now, "started", said)
            return job

    def _begin(self, job: Job) -> "asyncio.Task[None]":
        lease = str(job.lease)
        attempt = Attempt(job, lease, self._kinds.get(job.kind), self._desk)
        task = asyncio.create_task(attempt.make())
        self._held[lease] = (attempt, task)

        def ended(_: "asyncio.Task[None]") -> None:
            del self._held[lease]
            self._due.set()

        task.add_done_callback(ended)
        if self._closed:
            _stop(task)
        return task


def _stop(task: "asyncio.Task[None]") -> None:
    """Stop an attempt, which gives its job back; one that never began would not."""
    asyncio.get_running_loop().call_soon(task.cancel)
