"""Tells the end of jobs to those who want to know, again and again until they have heard it."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.core.errors import BadRequestError
from galley.db.session import Sessions
from galley.db.tables import utc_now
from galley.db.webhooks import claim_webhook, next_webhook, settle_webhook
from galley.db.work_tables import Job, Webhook
from galley.services.job_replies import told
from galley.services.webhook_call import post
from galley.services.webhooks import WebhookGuard, signed

log = structlog.get_logger(__name__)

LOOK_S = 5.0
AT_ONCE = 8
PAUSES_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""After each attempt but the last; up to a half of each is added at random."""

_SHOWN = 300  # characters of an error

CLAIM = timedelta(seconds=60)
"""Longer than a call may take: whoever died at it has left it to others by then."""


class WebhookSender:
    """Sends what is due.

    Args:
        draw: a number from 0 to 1, for the jitter of pauses.
    """

    def __init__(
        self,
        sessions: Sessions,
        guard: WebhookGuard,
        *,
        clock: Callable[[], datetime] = utc_now,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._sessions = sessions
        self._guard = guard
        self._clock = clock
        self._draw = draw
        self._due = asyncio.Event()

    def wake(self) -> None:
        """Look for something to send now."""
        self._due.set()

    async def keep(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            self._due.clear()
            try:
                await self.send_due()
            except* (SQLAlchemyError, OSError) as errors:  # several are sent at the same time
                log.warning("webhooks_not_sent", error=str(errors.exceptions[0]))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._due.wait()

    async def send_due(self) -> None:
        """Send what is due now, some of it at the same time."""
        if not await self._is_any_due():
            return
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._send_some())

    async def _is_any_due(self) -> bool:
        async with self._sessions() as session:
            due = await next_webhook(session)
        return due is not None and due <= self._clock()

    async def _send_some(self) -> None:
        while await self._is_any_due():
            now = self._clock()
            async with self._sessions.begin() as session:
                claimed = await claim_webhook(session, now=now, until=now + CLAIM)
            if claimed is None:
                return
            await self._send(*claimed)

    async def _send(self, webhook: Webhook, job: Job) -> None:
        error = await self._call(webhook, job)
        now, due_at = self._clock(), None
        if error is not None and webhook.attempts <= len(PAUSES_S):
            pause = PAUSES_S[webhook.attempts - 1] * (1 + self._draw() / 2)
            due_at = now + timedelta(seconds=pause)
        async with self._sessions.begin() as session:
            delivered_at = now if error is None else None
            await settle_webhook(
                session, webhook.job_id, delivered_at=delivered_at, error=error, due_at=due_at
            )
        log.info(
            "webhook_sent" if error is None else "webhook_failed",
            job_id=job.id, request_id=job.request_id, attempt=webhook.attempts, error=error,
        )  # fmt: skip

    async def _call(self, webhook: Webhook, job: Job) -> str | None:
        """Call it once; return what went wrong."""
        body = orjson.dumps(_message(job))
        name = f"msg_{job.id.replace('-', '')}"
        headers = signed(body, secret=webhook.secret, name=name, at=self._clock())
        try:
            status = await post(webhook.url, body, headers, self._guard)
        except BadRequestError as error:
            return error.message
        except OSError as error:
            return str(error)[:_SHOWN]
        return None if 200 <= status < 300 else f"status {status}"


def _message(job: Job) -> dict[str, Any]:
    """What a webhook is told: of the job all but its log."""
    told_of = told(job, None).model_dump(mode="json", exclude={"log", "webhook", "due_at"})
    moment = told_of["finished_at"]
    return {"type": f"job.{job.status}", "timestamp": moment, "data": told_of}
