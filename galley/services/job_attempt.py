"""One attempt at a job: its caller as they are now, its progress, and how it ended."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.core.caller import Caller
from galley.core.errors import BadRequestError, GalleyError, InternalError, RateLimitError
from galley.db.job_leases import write_by_lease
from galley.db.session import Sessions
from galley.db.tables import utc_now
from galley.db.webhooks import announce
from galley.db.work_tables import Job, JobStatus
from galley.services.accounts import Accounts
from galley.services.job_bell import JobBell
from galley.services.job_keeper import MOST_ATTEMPTS
from galley.services.job_kinds import JobRun, JobStoppedError, Kind
from galley.services.job_lines import Event, appended
from galley.services.jobs import permit
from galley.services.unbroken import unbroken

logger = structlog.get_logger(__name__)

BETWEEN_WRITES = timedelta(seconds=0.25)
BETWEEN_LINES = timedelta(seconds=30)
FIRST_PAUSE_S = 4.0
LONGEST_PAUSE_S = 300.0
_SHOWN = 500  # characters of a message


@dataclass(frozen=True, slots=True)
class Desk:
    """What every attempt needs.

    Args:
        finished: told of the kind and the status of a job that has ended.
        draw: a number from 0 to 1, for the jitter of pauses.
    """

    sessions: Sessions
    accounts: Accounts
    bell: JobBell
    finished: Callable[[str, JobStatus], None]
    clock: Callable[[], datetime] = utc_now
    draw: Callable[[], float] = random.random


class Attempt:
    """One attempt at `job`, which `lease` holds: whatever it writes, it writes by that."""

    def __init__(self, job: Job, lease: str, kind: Kind | None, desk: Desk) -> None:
        self.job = job
        self._lease = lease
        self._kind = kind
        self._desk = desk
        self._log = job.log
        self._progress: dict[str, Any] = {}
        self._tenth = 0
        self._written_at = self._told_at = job.created_at
        self._logger = logger.bind(job_id=job.id, request_id=job.request_id, task=job.kind)

    async def make(self) -> None:
        """Do the work, and write down what came of it; who is stopped gives it back."""
        is_stopped = False
        try:
            await self._make()
        except JobStoppedError:
            self._logger.info("job_stopped")
        except asyncio.CancelledError:
            # Not here: this error knows the work's statements, and they SQLite's lock.
            is_stopped = True
        except (SQLAlchemyError, OSError) as error:  # its lease runs out, and it is done again
            self._logger.warning("job_not_written", error=str(error))
        if is_stopped:
            await self._give_back()

    async def _make(self) -> None:
        self._logger.info("job_started", attempt=self.job.attempts)
        self._desk.bell.ring(self.job.id)
        try:
            result = await self._work()
        except JobStoppedError:
            raise
        except GalleyError as error:
            await self._fail(error)
        except Exception:
            self._logger.exception("job_broke")
            said = f"The server failed. Its log has more under {self.job.id}."
            await self._fail(InternalError(said, code="internal_error"))
        else:
            await self._end("succeeded", "succeeded", result=result)

    async def _work(self) -> dict[str, Any]:
        if self._kind is None:
            raise BadRequestError("This server does not know the task.", code="unknown_task")
        job = self.job
        run = JobRun(job.id, await self.admit(), job.params, job.attempts, self._report)
        return await self._kind.run(run)

    async def admit(self) -> Caller:
        """Look up whose job it is, as they are now.

        Raises:
            AuthenticationError, PermissionDeniedError: they may not have it done any more.
        """
        caller = await self._desk.accounts.caller(self.job.user_id, self.job.key_id)
        if self._kind is not None:
            permit(caller, self._kind)
        return caller

    async def _report(self, done: int, total: int | None, message: str | None) -> None:
        now = self._desk.clock()
        shown = message and plain(message)
        self._progress = {"done": done, "total": total, "message": shown}
        if now - self._written_at < BETWEEN_WRITES and done != total:
            return
        self._written_at = now
        tenth = 10 * done // total if total else 0
        if tenth > self._tenth or now - self._told_at >= BETWEEN_LINES:
            self._tenth, self._told_at = tenth, now
            self._logger.info("job_progress", done=done, total=total, message=shown)
            said = f"{done} of {total}" if total is not None else f"{done}"
            self._log = self._line("progress", f"{said}: {shown}" if shown else said)
        await self._write(log=self._log)

    async def _fail(self, error: GalleyError) -> None:
        """Put the job off, or let it fail for good."""
        job, code = self.job, error.code or type(error).__name__
        failure = {"error_code": code, "error_message": plain(error.message)}
        pause = _pause(error, job.attempts, self._desk.draw())
        if pause is None:
            self._logger.warning("job_failed", code=code, error=error.message)
            await self._end("failed", f"failed: {error.message}", **failure)
            return
        # Waiting for a limit is no attempt.
        attempts = job.attempts - isinstance(error, RateLimitError)
        self._logger.info("job_retried", code=code, error=error.message, pause_s=round(pause, 1))
        said = f"tried again in {pause:.0f} s: {error.message}"
        await self._requeue("retried", said, pause=pause, attempts=attempts, **failure)

    async def _give_back(self) -> None:
        """Let others do it, as it is not its fault that it stopped; a cancelled one is gone."""
        try:
            attempts = self.job.attempts - 1
            await self._requeue("interrupted", "it was stopped", attempts=attempts)
        except JobStoppedError:
            self._logger.info("job_stopped")
        except (SQLAlchemyError, OSError) as error:
            self._logger.warning("job_not_written", error=str(error))

    async def _requeue(self, event: Event, said: str, *, pause: float = 0.0, **values: Any) -> None:
        due_at = self._desk.clock() + timedelta(seconds=pause)
        free = {"status": "queued", "due_at": due_at, "lease": None, "leased_until": None}
        await self._write(log=self._line(event, said), **free, **values)

    async def _end(self, status: JobStatus, said: str, **values: Any) -> None:
        now = self._desk.clock()
        free = {"status": status, "finished_at": now, "lease": None, "leased_until": None}
        failed = {"error_code": None, "error_message": None}
        log = self._line("ended", said)
        await self._write(**(failed | values), log=log, **free)
        self._desk.finished(self.job.kind, status)
        took = (now - (self.job.started_at or now)).total_seconds()
        self._logger.info("job_ended", status=status, seconds=round(took, 3))

    async def _write(self, **values: Any) -> None:
        """Change the job's row.

        Raises:
            JobStoppedError: the lease is lost.
        """
        if not await unbroken(self._store(self._progress | values)):
            raise JobStoppedError
        self._desk.bell.ring(self.job.id)

    async def _store(self, values: Mapping[str, Any]) -> bool:
        async with self._desk.sessions.begin() as session:
            stored = await write_by_lease(session, self._lease, values)
            if stored and "finished_at" in values:
                await announce(session, self.job.id, now=values["finished_at"])
        return stored

    def _line(self, event: Event, said: str) -> list[dict[str, Any]]:
        self._log = appended(self._log, self._desk.clock(), event, plain(said))
        return self._log


def _pause(error: GalleyError, attempt: int, drawn: float) -> float | None:
    """Seconds until it may be tried again; None is never.

    Source: Brooker 2015, Exponential Backoff And Jitter (full jitter).
    """
    if isinstance(error, RateLimitError) and error.should_retry:
        return (error.retry_after or FIRST_PAUSE_S) + drawn
    if error.status < 500 or attempt >= MOST_ATTEMPTS:
        return None
    most = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 4 ** (attempt - 1))
    return max(error.retry_after or 0.0, most * drawn)


def plain(text: str) -> str:
    """Leave out what databases and terminals stumble over, and what is too long."""
    return "".join(c if c.isprintable() else " " for c in text[:_SHOWN])
