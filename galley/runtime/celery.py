"""Jobs through Celery: servers send wake-ups, and workers do what is due.

The row is the truth. A message that is lost is sent again, one too many finds nothing to do.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.core.settings import Settings, SettingsError
from galley.db.job_leases import waiting_jobs
from galley.db.session import Sessions
from galley.db.tables import utc_now
from galley.services.job_keeper import JobKeeper

if TYPE_CHECKING:
    from celery import Celery

log = structlog.get_logger(__name__)

RUN_JOB = "galley.run_job"
QUEUE = "galley"
LOOK_S = 10.0
OVERDUE = timedelta(seconds=5)
MOST_UNSENT = 1_000
MOST_RESENT = 16
"""Each makes a worker go on until nothing is due."""

_PATIENCE_S = 4.0


def make_celery(settings: Settings) -> "Celery":
    """Make Celery's app; nothing is connected yet.

    Raises:
        SettingsError: no broker is set, or Celery is not installed.
    """
    if settings.broker_url is None:
        raise SettingsError(
            "Workers hear of jobs through a broker. Set GALLEY_BROKER_URL, for servers and workers"
            " alike, to one like redis://host:6379/1"
        )
    try:
        from celery import Celery  # an extra: one server does without
    except ModuleNotFoundError as error:
        raise SettingsError(
            "GALLEY_BROKER_URL needs Celery. Install it: pip install 'galley[celery]'"
        ) from error
    url = settings.broker_url.get_secret_value()
    made = Celery(QUEUE, broker=url, set_as_current=False)
    patience = {"socket_timeout": _PATIENCE_S, "socket_connect_timeout": _PATIENCE_S}
    made.conf.update(
        task_default_queue=QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,  # a message whose worker died comes again
        task_reject_on_worker_lost=True,
        task_publish_retry=False,  # a server looks again by itself
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        broker_connection_timeout=_PATIENCE_S,
        broker_transport_options=patience if url.startswith("redis") else {},
        broker_connection_retry_on_startup=True,
    )
    return made


class CelerySender:
    """Tells workers of jobs that are due."""

    def __init__(
        self,
        celery: "Celery",
        sessions: Sessions,
        keeper: JobKeeper,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._celery = celery
        self._sessions = sessions
        self._keeper = keeper
        self._clock = clock
        self._unsent: asyncio.Queue[str] = asyncio.Queue(MOST_UNSENT)

    async def start(self, job_id: str) -> None:
        """Have a wake-up sent: nobody waits for a broker, as `keep` reminds of what waits."""
        with suppress(asyncio.QueueFull):
            self._unsent.put_nowait(job_id)

    async def send(self) -> None:
        """Send wake-ups, until cancelled; while the broker takes none, they are left out."""
        from kombu.exceptions import KombuError

        while True:
            job_id = await self._unsent.get()
            try:
                await asyncio.to_thread(self._send, job_id)
            except (KombuError, OSError) as error:
                log.warning("broker_not_reached", job_id=job_id, error=str(error))
                self._unsent = asyncio.Queue(MOST_UNSENT)

    def stop(self, job_id: str) -> None:
        """Nothing runs here; who has the job finds that its lease is gone."""

    async def keep(self) -> None:
        """Give back what dead workers held, and remind of what waits, until cancelled."""
        while True:
            try:
                await self._keeper.look()
                await self.remind()
            except (SQLAlchemyError, OSError) as error:
                log.warning("jobs_not_read", error=str(error))
            await asyncio.sleep(LOOK_S)

    async def remind(self) -> None:
        """Send wake-ups for some of the jobs that have waited for long."""
        async with self._sessions() as session:
            overdue = self._clock() - OVERDUE
            waiting = await waiting_jobs(session, before=overdue, limit=MOST_RESENT)
        for job_id in waiting:
            await self.start(job_id)

    def _send(self, job_id: str) -> None:
        celery: Any = self._celery
        celery.send_task(RUN_JOB, args=[job_id])
