"""Models of other servers and routes, named by admins while the server runs."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query

from galley.core.catalogue import RouteSettings
from galley.dialects import native
from galley.routers.bodies import BodyRoute
from galley.routers.deps import ModelsAdmin, RuntimeDep
from galley.routers.names import register
from galley.routers.openapi import refusals
from galley.runtime import Runtime
from galley.schemas.experiments import RouteResults
from galley.schemas.keys import Moment
from galley.schemas.routing import (
    ModelName,
    ModelSpec,
    ModelState,
    ModelStateList,
    Promotion,
    ReplicaReply,
    RouteList,
    RouteName,
    RouteReply,
)
from galley.services.models import Model

register()
router = APIRouter(
    prefix="/v1/admin",
    tags=["admin"],
    route_class=BodyRoute,
    responses=refusals(native, 401, 403, 422, 500),
)

AModel = Annotated[ModelName, Path(openapi_examples={"big": {"value": "big"}})]
ARoute = Annotated[RouteName, Path(openapi_examples={"smart": {"value": "smart"}})]


@router.get("/models", summary="List models and their servers")
async def admin_models(caller: ModelsAdmin, runtime: RuntimeDep) -> ModelStateList:
    """List all models: where they run, how busy they are, and which are given a rest."""
    return ModelStateList(data=[_model(runtime, model) for model in runtime.models.all()])


@router.put("/models/{name:model}", summary="Add a model", responses=refusals(native, 409, 413))
async def set_model(
    caller: ModelsAdmin,
    runtime: RuntimeDep,
    name: AModel,
    request: Annotated[
        ModelSpec,
        Body(
            openapi_examples={
                "server": {"value": {"kind": "chat", "source": "http://10.0.0.7:8080/v1"}}
            }
        ),
    ],
) -> ModelState:
    """Add a model of another server, or change one that was added so. It needs a price."""
    await runtime.definitions.set_model(caller, name, request)
    return _model(runtime, runtime.models.find(name))


@router.delete(
    "/models/{name:model}",
    summary="Take a model away",
    status_code=204,
    responses=refusals(native, 404, 409),
)
async def delete_model(caller: ModelsAdmin, runtime: RuntimeDep, name: AModel) -> None:
    """Take a model away that was added while the server ran; what runs on it is finished."""
    await runtime.definitions.delete_model(caller, name)


@router.get("/routes", summary="List routes")
async def list_routes(caller: ModelsAdmin, runtime: RuntimeDep) -> RouteList:
    """List the names that several models answer to."""
    return RouteList(data=[_route(runtime, name) for name in sorted(runtime.models.routes)])


@router.put("/routes/{name:route}", summary="Set a route", responses=refusals(native, 400, 413))
async def set_route(
    caller: ModelsAdmin,
    runtime: RuntimeDep,
    name: ARoute,
    request: Annotated[
        RouteSettings,
        Body(
            openapi_examples={
                "canary": {"value": {"targets": {"big": 90, "small": 10}, "fallbacks": ["small"]}}
            }
        ),
    ],
) -> RouteReply:
    """Make a route, or replace one; it counts from the next request on."""
    await runtime.definitions.set_route(caller, name, request)
    return _route(runtime, name)


@router.delete(
    "/routes/{name:route}",
    summary="Delete a route",
    status_code=204,
    responses=refusals(native, 404),
)
async def delete_route(caller: ModelsAdmin, runtime: RuntimeDep, name: ARoute) -> None:
    """Forget a route that was set while the server ran; the configuration's counts again."""
    await runtime.definitions.delete_route(caller, name)


@router.post(
    "/routes/{name:route}/promote",
    summary="Promote a target",
    responses=refusals(native, 400, 404, 413),
)
async def promote(
    caller: ModelsAdmin,
    runtime: RuntimeDep,
    name: ARoute,
    request: Annotated[Promotion, Body(openapi_examples={"small": {"value": {"target": "small"}}})],
) -> RouteReply:
    """Give all users of a route one of its targets."""
    await runtime.definitions.promote(caller, name, request.target)
    return _route(runtime, name)


@router.post(
    "/routes/{name:route}/rollback",
    summary="Roll a route back",
    status_code=204,
    responses=refusals(native, 404),
)
async def roll_back(caller: ModelsAdmin, runtime: RuntimeDep, name: ARoute) -> None:
    """Bring a route back to what it was before it was last set."""
    await runtime.definitions.roll_back(caller, name)


@router.get(
    "/routes/{name:route}/results",
    summary="Compare a route's targets",
    responses=refusals(native, 404),
)
async def route_results(
    caller: ModelsAdmin,
    runtime: RuntimeDep,
    name: ARoute,
    since: Annotated[
        Moment | None, Query(description="Unset: since the route was last set.")
    ] = None,
) -> RouteResults:
    """Compare the targets of a route: errors, times, cost and feedback, with 95 % confidence."""
    return await runtime.experiments.results(name, since=since)


def _model(runtime: Runtime, model: Model) -> ModelState:
    return ModelState(
        name=model.name,
        kind=model.settings.kind,
        origin="admin" if runtime.definitions.is_own(model.name) else "settings",
        source=model.settings.public_source,
        state=model.state,
        error=model.error,
        replicas=[
            ReplicaReply(breaker=r.breaker.state, busy=r.busy, problem=r.engine.problem)
            for r in model.replicas
        ],
    )


def _route(runtime: Runtime, name: str) -> RouteReply:
    spec = runtime.models.routes[name]
    own = name in runtime.definitions.own_routes
    return RouteReply(
        name=name,
        origin="admin" if own else "settings",
        targets=spec.targets,
        fallbacks=spec.fallbacks,
    )
