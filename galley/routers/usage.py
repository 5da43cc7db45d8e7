"""What was asked for: one's own requests and their sums, and for admins those of all."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query

from galley.db.requests import Wanted
from galley.dialects import native
from galley.routers.deps import CallerDep, RuntimeDep, UsageAdmin, UsageCaller
from galley.routers.keys import After, PageSize
from galley.routers.openapi import refusals
from galley.schemas.profiles import MeReply
from galley.schemas.usage import (
    AdminGroupBy,
    GroupBy,
    RequestList,
    RequestReply,
    RequestState,
    UsageReport,
    UsageSummary,
)

router = APIRouter(tags=["account"], responses=refusals(native, 401, 403, 422, 500))

First = Annotated[date | None, Query(alias="from", description="The first day, of UTC.")]
Last = Annotated[date | None, Query(alias="to", description="The last day; it is included.")]
Words = Annotated[str | None, Query(max_length=256)]


@router.get("/v1/usage", summary="Sum up your usage", responses=refusals(native, 400))
@router.get("/usage", include_in_schema=False)
async def usage(
    caller: UsageCaller,
    runtime: RuntimeDep,
    first: First = None,
    last: Last = None,
    group_by: GroupBy | None = None,
) -> UsageSummary:
    """Sum up your own requests, of some days or all, and by day, model, key or endpoint."""
    return await runtime.usage.summary(caller, first=first, last=last, by=group_by)


@router.get("/v1/requests", summary="List your requests", responses=refusals(native, 400))
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


@router.get(
    "/v1/requests/{request_id}", summary="Describe a request", responses=refusals(native, 404)
)
async def retrieve_request(
    caller: UsageCaller, runtime: RuntimeDep, request_id: str
) -> RequestReply:
    """Describe one of your requests, by the `request-id` that its answer had."""
    return await runtime.usage.request(caller, request_id)


@router.get("/v1/me", summary="Who you are")
async def me(caller: CallerDep, runtime: RuntimeDep) -> MeReply:
    """Say who you are, what you may do, and what your limits leave you."""
    return await runtime.profiles.of(caller)


@router.get(
    "/v1/admin/usage", summary="Sum up all usage", tags=["admin"], responses=refusals(native, 400)
)
async def admin_usage(
    caller: UsageAdmin,
    runtime: RuntimeDep,
    first: First = None,
    last: Last = None,
    group_by: AdminGroupBy | None = None,
) -> UsageReport:
    """Sum up everybody's requests, and by day, model, endpoint, user or tier."""
    return await runtime.usage.everyones(first=first, last=last, by=group_by)
