"""Batches, in OpenAI's shape: many requests in one file, answered in the gaps."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request

from galley.dialects import openai
from galley.routers.bodies import BodyRoute
from galley.routers.deps import JobsCaller, RuntimeDep
from galley.routers.openapi import refusals
from galley.schemas.batches import BatchCreate, BatchList, BatchReply
from galley.services.batch_replies import list_of, reply_of

router = APIRouter(
    prefix="/v1/batches",
    tags=["batches"],
    route_class=BodyRoute,
    responses=refusals(openai, 401, 403, 500),
)

After = Annotated[str | None, Query(description="The last id of the page before.", max_length=64)]
_EXAMPLE = {
    "input_file_id": "file-01a2007000007000800000000000000a",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}


@router.post("", summary="Create a batch", responses=refusals(openai, 400, 404, 413, 429))
async def create_batch(
    caller: JobsCaller,
    runtime: RuntimeDep,
    received: Request,
    request: Annotated[BatchCreate, Body(openapi_examples={"example": {"value": _EXAMPLE}})],
) -> BatchReply:
    """Have the requests of a file answered while nobody else waits for a model."""
    arrival = received.scope["arrival"]
    made = await runtime.batches.create(caller, request, request_id=arrival.request_id)
    return reply_of(made)


@router.get("", summary="List batches", responses=refusals(openai, 400))
async def list_batches(
    caller: JobsCaller,
    runtime: RuntimeDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchList:
    """List your batches, the latest first."""
    return list_of(await runtime.batches.list(caller, after=after, limit=limit))


@router.get("/{batch_id}", summary="Retrieve a batch", responses=refusals(openai, 404))
async def retrieve_batch(caller: JobsCaller, runtime: RuntimeDep, batch_id: str) -> BatchReply:
    """Say how far one of your batches is."""
    return reply_of(await runtime.batches.find(caller, batch_id))


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=refusals(openai, 404, 409))
async def cancel_batch(caller: JobsCaller, runtime: RuntimeDep, batch_id: str) -> BatchReply:
    """Stop one of your batches; what is done stays, and is written to its files."""
    return reply_of(await runtime.batches.cancel(caller, batch_id))
