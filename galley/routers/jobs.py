"""Jobs: begun here, done in the background, watched as they go on."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import orjson
from fastapi import APIRouter, BackgroundTasks, Body, Header, Request, Response
from starlette.responses import StreamingResponse

from galley.dialects import native
from galley.routers.bodies import BodyRoute
from galley.routers.deps import JobsCaller, RuntimeDep
from galley.routers.keys import After, PageSize
from galley.routers.openapi import refusals
from galley.schemas.jobs import (
    JobGone,
    JobKind,
    JobList,
    JobReply,
    JobStatus,
    ProcessReply,
    ProcessRequest,
)
from galley.services.job_feed import JobEvent

router = APIRouter(
    tags=["jobs"], route_class=BodyRoute, responses=refusals(native, 401, 403, 422, 500)
)

KEEP_ALIVE = b": still here\n\n"
_STREAMED = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
    "content-type": "text/event-stream; charset=utf-8",
}
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="idempotency-key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$",
        description="The same key and body give the same job, however often they are sent.",
    ),
]  # fmt: skip
LastEventId = Annotated[
    str | None,
    Header(alias="last-event-id", pattern=r"^[0-9]{1,9}$", description="As browsers send it."),
]
Work = Annotated[
    ProcessRequest | None,
    Body(openapi_examples={"example": {"value": {"task": "analyse_usage", "params": {"days": 7}}}}),
]


@router.post(
    "/v1/process",
    status_code=202,
    summary="Begin a job",
    response_model_exclude_none=True,
    responses=refusals(native, 400, 404, 409, 413, 429),
)
@router.post("/process", status_code=202, response_model_exclude_none=True, include_in_schema=False)
async def process(
    caller: JobsCaller,
    runtime: RuntimeDep,
    request: Request,
    response: Response,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
    work: Work = None,
) -> ProcessReply:
    """Accept work that is done after this answer, even if the server dies before that."""
    asked = work or ProcessRequest()
    jobs = runtime.jobs.service
    made = await jobs.accept(
        caller,
        asked.task,
        asked.params,
        request_id=request.scope["arrival"].request_id,
        idempotency_key=idempotency_key,
        webhook=asked.webhook,
    )
    background.add_task(jobs.start, made.id)
    response.headers["location"] = f"/v1/jobs/{made.id}"
    if not made.is_new:
        response.headers["idempotent-replayed"] = "true"
    return ProcessReply(job_id=made.id, status=made.status, webhook_secret=made.webhook_secret)


@router.get("/v1/jobs", summary="List your jobs", responses=refusals(native, 400))
async def list_jobs(
    caller: JobsCaller,
    runtime: RuntimeDep,
    status: JobStatus | None = None,
    task: JobKind | None = None,
    after: After = None,
    limit: PageSize = 50,
) -> JobList:
    """List your jobs, the latest first; those of one status or task."""
    return await runtime.jobs.service.list(
        caller, status=status, kind=task, after=after, limit=limit
    )


@router.get("/v1/jobs/{job_id}", summary="Show a job", responses=refusals(native, 404))
async def retrieve_job(caller: JobsCaller, runtime: RuntimeDep, job_id: str) -> JobReply:
    """Show how far one of your jobs is, what came of it, and the last lines of its log."""
    return await runtime.jobs.service.find(caller, job_id)


@router.delete(
    "/v1/jobs/{job_id}", summary="Cancel or delete a job", responses=refusals(native, 404)
)
async def remove_job(caller: JobsCaller, runtime: RuntimeDep, job_id: str) -> JobGone:
    """Cancel one of your jobs that waits or runs; delete one that has ended."""
    return await runtime.jobs.service.remove(caller, job_id)


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Watch a job",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **refusals(native, 404, 429),
    },
)
async def watch_job(
    caller: JobsCaller, runtime: RuntimeDep, job_id: str, last_event_id: LastEventId = None
) -> StreamingResponse:
    """Watch one of your jobs as server-sent events: `state`, then `log`, `progress`, and `end`."""
    after = int(last_event_id) if last_event_id else None
    events = runtime.jobs.feed.watch(caller, job_id, after=after)
    first = await anext(events)  # so that a refusal is no broken stream
    return StreamingResponse(_framed(first, events), headers=_STREAMED)


async def _framed(
    first: JobEvent | None, events: AsyncGenerator[JobEvent | None]
) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        yield _frame(first)
        async for event in events:
            yield _frame(event)


def _frame(event: JobEvent | None) -> bytes:
    if event is None:
        return KEEP_ALIVE
    data = orjson.dumps(event.data.model_dump(mode="json"))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.name.encode(), data)
