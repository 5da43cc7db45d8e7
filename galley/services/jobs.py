"""Jobs: accepted, looked up, cancelled. `job_runner.py` does them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import orjson
from pydantic import ValidationError
from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.caller import Caller
from galley.core.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableError,
)
from galley.db.jobs import (
    add_job,
    cancel_job,
    count_queued,
    delete_job,
    find_by_idempotency_key,
    find_job,
    list_jobs,
    webhooks_of,
)
from galley.db.session import Sessions
from galley.db.tables import new_id, utc_now
from galley.db.users import find_user
from galley.db.webhooks import add_webhook
from galley.db.work_tables import Job, JobStatus, Webhook
from galley.schemas.base import Request
from galley.schemas.jobs import (
    FINISHED,
    JobGone,
    JobKind,
    JobList,
    JobReply,
    WebhookTarget,
)
from galley.services.job_bell import JobBell
from galley.services.job_kinds import Kind
from galley.services.job_lines import line
from galley.services.job_replies import told, told_in_short
from galley.services.webhooks import WebhookGuard, check_secret, new_secret


class Starter(Protocol):
    """Has jobs done: here, or by workers."""

    async def start(self, job_id: str) -> None:
        """Say that a job is due; it is done sooner or later without this, too."""
        ...

    def stop(self, job_id: str) -> None:
        """Stop a job that was cancelled, if it runs here; others find it out."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job, and the secret that was made for its webhook; `is_new` unless it was there before."""

    id: str
    status: JobStatus
    is_new: bool = True
    webhook_secret: str | None = None


class JobService:
    """Looks after the jobs of each user.

    Args:
        most_queued: jobs of one user that wait at the same time.
    """

    def __init__(
        self,
        sessions: Sessions,
        kinds: Mapping[str, Kind],
        starter: Starter,
        guard: WebhookGuard,
        bell: JobBell,
        *,
        most_queued: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._kinds = kinds
        self._starter = starter
        self._guard = guard
        self._bell = bell
        self._most_queued = most_queued
        self._clock = clock

    async def submit(
        self,
        caller: Caller,
        kind: JobKind,
        params: Mapping[str, Any],
        *,
        request_id: str | None = None,
        idempotency_key: str | None = None,
        webhook: WebhookTarget | None = None,
    ) -> Accepted:
        """Make a job and have it done; as `accept`."""
        made = await self.accept(
            caller, kind, params,
            request_id=request_id, idempotency_key=idempotency_key, webhook=webhook,
        )  # fmt: skip
        await self.start(made.id)
        return made

    async def start(self, job_id: str) -> None:
        """Have a job done that was accepted."""
        await self._starter.start(job_id)

    async def accept(
        self,
        caller: Caller,
        kind: JobKind,
        params: Mapping[str, Any],
        *,
        request_id: str | None = None,
        idempotency_key: str | None = None,
        webhook: WebhookTarget | None = None,
    ) -> Accepted:
        """Make a job: when this returns, it is on disk, and will be done.

        Args:
            request_id: of the request that asks for it, for the log.
            idempotency_key: the same key and the same job give the job that was made before.
        Raises:
            UnprocessableError: the kind's params do not fit.
            PermissionDeniedError: the caller lacks a scope of the kind.
            ConflictError: the key was used for another job.
            RateLimitError: too many jobs of the caller wait.
            BadRequestError: the webhook leads where none may; or what the kind's check says.
        """
        if (known := self._kinds.get(kind)) is None:
            raise BadRequestError("This server does not know the task.", code="unknown_task")
        permit(caller, known)
        asked = _validated(known.params, params)
        if webhook is not None:
            self._guard.check(webhook.url)
            if webhook.secret is not None:
                check_secret(webhook.secret)
        job = Job(
            id=new_id(),
            user_id=caller.user_id,
            key_id=caller.key_id,
            request_id=request_id,
            kind=kind,
            params=asked.model_dump(mode="json", exclude_none=True),
            idempotency_key=idempotency_key,
        )
        job.fingerprint = _fingerprint(job, webhook)
        async with self._sessions() as session:
            before = await _made_before(session, job)
        if before is not None:
            return before
        if known.check is not None:
            await known.check(caller, asked)
        async with self._sessions.begin() as session:
            return await self._keep(session, job, webhook)

    async def _keep(
        self, session: AsyncSession, job: Job, webhook: WebhookTarget | None
    ) -> Accepted:
        await find_user(session, job.user_id, change=True)  # one by one, so that counts hold
        if (before := await _made_before(session, job)) is not None:
            return before
        if await count_queued(session, user_id=job.user_id) >= self._most_queued:
            raise RateLimitError(
                f"{self._most_queued} jobs of yours are waiting, which is the most there may be."
                " Wait for some, or cancel them.",
                code="too_many_jobs",
                retry_after=10,
            )
        job.status, job.attempts, job.done = "queued", 0, 0
        job.created_at = job.due_at = self._clock()
        job.log = [line([], job.created_at, "queued", f"{job.kind} was accepted")]
        await add_job(session, job)
        made = None
        if webhook is not None:
            secret = webhook.secret or (made := new_secret())
            await add_webhook(session, Webhook(job_id=job.id, url=webhook.url, secret=secret))
        return Accepted(job.id, job.status, webhook_secret=made)

    async def list(
        self,
        caller: Caller,
        *,
        status: JobStatus | None = None,
        kind: JobKind | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> JobList:
        """List the caller's jobs, the latest first.

        Raises:
            BadRequestError: `after` is not an id.
        """
        async with self._sessions() as session:
            page = await list_jobs(
                session,
                user_id=caller.user_id, status=status, kind=kind, after=after, limit=limit,
            )  # fmt: skip
            hooks = await webhooks_of(session, [job.id for job in page.rows])
        data = [told_in_short(job, hooks.get(job.id)) for job in page.rows]
        return JobList(
            data=data,
            has_more=page.has_more,
            next_after=data[-1].id if page.has_more else None,
        )

    async def find(self, caller: Caller, job_id: str) -> JobReply:
        """Describe a job of the caller.

        Raises:
            NotFoundError: they have no such job.
        """
        async with self._sessions() as session:
            job = _known(await find_job(session, user_id=caller.user_id, job_id=job_id))
            hooks = await webhooks_of(session, [job.id])
        return told(job, hooks.get(job.id))

    async def remove(self, caller: Caller, job_id: str) -> JobGone:
        """Cancel a job of the caller; one that has ended is deleted.

        Raises:
            NotFoundError: they have no such job.
        """
        async with self._sessions.begin() as session:
            job = _known(
                await find_job(session, user_id=caller.user_id, job_id=job_id, change=True)
            )
            hooks = await webhooks_of(session, [job.id])
            if ended := job.status in FINISHED:
                await delete_job(session, job)
            else:
                await cancel_job(session, job, now=self._clock())
        self._starter.stop(job.id)
        self._bell.ring(job.id)
        return JobGone(**dict(told(job, hooks.get(job.id))), deleted=ended)


def permit(caller: Caller, kind: Kind) -> None:
    """Insist that `caller` has the scopes of `kind`.

    Raises:
        PermissionDeniedError: one is lacking.
    """
    for scope in kind.scopes:
        if not caller.may(scope):
            raise PermissionDeniedError(
                f"This task needs the scope `{scope}`, which the key or its owner lacks.",
                code="missing_scope",
            )


def _validated(shape: type[Request], params: Mapping[str, Any]) -> Request:
    try:
        return shape.model_validate_json(to_json(dict(params)))  # numbers of any length
    except ValidationError as error:
        details = [
            {"type": d["type"], "loc": ["body", "params", *d["loc"]], "msg": d["msg"]}
            for d in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise UnprocessableError("The params do not fit the task.", details=details) from None


def _fingerprint(job: Job, webhook: WebhookTarget | None) -> bytes:
    """What two requests of one idempotency key have to share."""
    told_to = webhook.model_dump(mode="json") if webhook is not None else None
    same = orjson.dumps([job.kind, job.params, told_to], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(same).digest()


async def _made_before(session: AsyncSession, job: Job) -> Accepted | None:
    """Return the job that was made with the same idempotency key; None when there is none."""
    if job.idempotency_key is None:
        return None
    before = await find_by_idempotency_key(session, user_id=job.user_id, key=job.idempotency_key)
    if before is None:
        return None
    if before.fingerprint != job.fingerprint:
        raise ConflictError(
            "This idempotency key was used for another job already. Use a new one.",
            code="idempotency_key_reused",
            param="idempotency-key",
        )
    return Accepted(before.id, before.status, is_new=False)


def _known(job: Job | None) -> Job:
    if job is None:
        raise NotFoundError("There is no such job.", code="job_not_found")
    return job
