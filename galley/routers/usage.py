"""What was used: by oneself, and for admins by all; and who one is."""

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BeforeValidator

from galley.dialects import native
from galley.routers.deps import CallerDep, RuntimeDep, UsageAdmin, UsageCaller
from galley.routers.openapi import refusals
from galley.schemas.profiles import MeReply
from galley.schemas.usage import (
    AdminGroupBy,
    GroupBy,
    UsageReport,
    UsageSummary,
)

router = APIRouter(responses=refusals(native, 401, 403, 422, 500))


def _iso_day(text: str) -> date:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()


# Left to itself, pydantic takes a number for seconds since 1970.
Day = Annotated[date, BeforeValidator(_iso_day)]
First = Annotated[Day | None, Query(alias="from", description="The first day, of UTC.")]
Last = Annotated[Day | None, Query(alias="to", description="The last day; it is included.")]


@router.get(
    "/v1/usage", summary="Sum up your usage", tags=["account"], responses=refusals(native, 400)
)
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


@router.get("/v1/me", summary="Who you are", tags=["account"])
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
