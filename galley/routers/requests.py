"""Single requests: lists of one's own, receipts, and what users say of the answers."""

from typing import Annotated

from fastapi import APIRouter, Body, Query

from galley.db.requests import Wanted
from galley.dialects import native
from galley.routers.bodies import BodyRoute
from galley.routers.deps import RuntimeDep, UsageCaller
from galley.routers.keys import After, PageSize
from galley.routers.openapi import refusals
from galley.schemas.keys import PLAIN
from galley.schemas.receipts import FeedbackReply, FeedbackRequest, ReceiptReply
from galley.schemas.usage import RequestList, RequestState

router = APIRouter(
    prefix="/v1/requests",
    tags=["account"],
    route_class=BodyRoute,
    responses=refusals(native, 401, 403, 422, 500),
)

Words = Annotated[str | None, Query(max_length=256, pattern=PLAIN)]


@router.get("", summary="List your requests", responses=refusals(native, 400))
async def list_requests(
    caller: UsageCaller,
    runtime: RuntimeDep,
    state: RequestState | None = None,
    model: Words = None,
    endpoint: Words = None,
    key: Words = None,
    after: After = None,
    limit: PageSize = 50,
) -> RequestList:
    """List your requests, the latest first; those of one state, model, endpoint or key."""
    wanted = Wanted(state, model, endpoint, key)
    return await runtime.usage.requests(caller, wanted, after=after, limit=limit)


@router.get("/{request_id}", summary="Show a receipt", responses=refusals(native, 404))
async def retrieve_request(
    caller: UsageCaller, runtime: RuntimeDep, request_id: str
) -> ReceiptReply:
    """Show the receipt of one of your requests, by the `request-id` that its answer had."""
    return await runtime.receipts.of(caller, request_id)


@router.post(
    "/{request_id}/feedback",
    summary="Say what you think of an answer",
    responses=refusals(native, 404, 413),
)
async def give_feedback(
    caller: UsageCaller,
    runtime: RuntimeDep,
    request_id: str,
    request: Annotated[
        FeedbackRequest, Body(openapi_examples={"good": {"value": {"rating": "up"}}})
    ],
) -> FeedbackReply:
    """Say how good the answer to one of your requests was; the latest word counts."""
    return await runtime.receipts.say(caller, request_id, request)
