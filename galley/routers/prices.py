"""What models cost: to see for all, to set for admins."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query

from galley.core.money import dollars
from galley.db.tables import Price
from galley.dialects import native
from galley.routers.bodies import BodyRoute
from galley.routers.deps import CallerDep, PricesAdmin, RuntimeDep
from galley.routers.keys import After, PageSize
from galley.routers.names import register
from galley.routers.openapi import refusals
from galley.schemas.keys import PLAIN
from galley.schemas.money import CurrentPrice, CurrentPriceList, PriceList, PriceReply, PriceSet

register()
router = APIRouter(route_class=BodyRoute, responses=refusals(native, 401, 403, 422, 500))


@router.get("/v1/prices", summary="What models cost", tags=["models"])
async def list_current_prices(caller: CallerDep, runtime: RuntimeDep) -> CurrentPriceList:
    """List what the models that you may use cost now, in dollars."""
    prices = runtime.pricing.current()
    return CurrentPriceList(data=[_current(p) for p in prices if caller.may_use(p.model)])


@router.get(
    "/v1/admin/prices", summary="List prices", tags=["admin"], responses=refusals(native, 400)
)
async def list_prices(
    caller: PricesAdmin,
    runtime: RuntimeDep,
    model: Annotated[str | None, Query(max_length=256, pattern=PLAIN)] = None,
    after: After = None,
    limit: PageSize = 100,
) -> PriceList:
    """List prices as they were set, the latest first, in micro-dollars; of one model or of all."""
    page = await runtime.pricing.history(model=model, after=after, limit=limit)
    return PriceList(data=[_reply(price) for price in page.rows], has_more=page.has_more)


@router.put(
    "/v1/admin/prices/{model:model}",
    summary="Set a price",
    tags=["admin"],
    responses=refusals(native, 400, 404, 413),
)
async def set_price(
    caller: PricesAdmin,
    runtime: RuntimeDep,
    model: Annotated[str, Path(openapi_examples={"chat": {"value": "galley/chat"}})],
    request: Annotated[
        PriceSet,
        Body(openapi_examples={"free": {"value": {"prompt": 0, "completion": 0}}}),
    ],
) -> PriceReply:
    """Say what a model costs from now on, or from a later moment on; older requests keep theirs."""
    price = await runtime.pricing.set(
        caller,
        runtime.models.find(model).name,
        prompt=request.prompt,
        cached=request.prompt if request.cached is None else request.cached,
        completion=request.completion,
        unit=request.unit,
        second=request.second,
        valid_from=request.valid_from,
    )
    return _reply(price)


def _reply(price: Price) -> PriceReply:
    return PriceReply(
        id=price.id,
        model=price.model,
        valid_from=price.valid_from,
        prompt=price.prompt,
        cached=price.cached,
        completion=price.completion,
        unit=price.unit,
        second=price.second,
    )


def _current(price: Price) -> CurrentPrice:
    return CurrentPrice(
        model=price.model,
        valid_from=price.valid_from,
        prompt=dollars(price.prompt),
        cached=dollars(price.cached),
        completion=dollars(price.completion),
        unit=dollars(price.unit),
        second=dollars(price.second),
    )
