"""Is it alive, is it ready, what is it doing."""

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse, PlainTextResponse

from galley import __version__
from galley.core.metrics import PAGE_TYPE
from galley.routers.deps import RuntimeDep
from galley.schemas.account import Health

router = APIRouter(tags=["operations"])


@router.get("/", include_in_schema=False)
async def index(request: Request) -> dict[str, str]:
    """Say what this is, and where to go on."""
    base = str(request.base_url).rstrip("/")
    return {
        "name": "galley",
        "version": __version__,
        "docs": f"{base}/docs",
        "openapi": f"{base}/openapi.json",
        "api": f"{base}/v1",
        "health": f"{base}/health",
        "metrics": f"{base}/metrics",
    }


@router.get("/health/live", summary="Liveness")
async def live() -> Health:
    """Answer 200 as long as the process does."""
    return Health(status="ok", version=__version__, parts={})


@router.get("/health", summary="Health of every part")
async def health(runtime: RuntimeDep) -> Health:
    """Say of every part how it is; 200 also while models are loading."""
    parts = await runtime.health()
    status = "ok" if all(state == "ok" for state in parts.values()) else "degraded"
    return Health(status=status, version=__version__, parts=parts)


@router.get(
    "/health/ready",
    summary="Readiness",
    response_model=Health,
    responses={503: {"model": Health, "description": "A part is not ready."}},
)
async def ready(runtime: RuntimeDep) -> Response:
    """Answer 200 once every part can work, 503 before that.

    Without Redis the server goes on with limits of its own, and is degraded but ready. So it is
    with too much to do: taken out, it would leave its share to the others.
    """
    found = await health(runtime)
    spared = {"load", "memory"} | (set() if runtime.settings.redis_lost == "closed" else {"limits"})
    is_ready = all(state == "ok" for name, state in found.parts.items() if name not in spared)
    return JSONResponse(found.json_object(), 200 if is_ready else 503)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(runtime: RuntimeDep) -> Response:
    """Everything that is counted, in Prometheus' text format."""
    page = await runtime.metrics.render()
    return Response(page, media_type=PAGE_TYPE)
