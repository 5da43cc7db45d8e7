"""Every route of the app, and who it lets in."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from galley.core.caller import ADMIN_SCOPES, SCOPES
from galley.main import create_app
from galley.routers.deps import ANY_CALLER, UsageCaller, guard_of
from galley.routers.front_door import Endpoint
from tests.serving import make_settings

PUBLIC = {
    "GET /",
    "GET /docs",
    "GET /docs/assets/*",
    "GET /health",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
    "GET /openapi.json",
    "GET /redoc",
    "POST /v1/auth/logout",
    "POST /v1/auth/refresh",
    "POST /v1/auth/session",
    "POST /v1/auth/token",
    "PUT /v1/auth/session",
}
"""What asks for no key: what anybody may see, and where people log in and out.

Whatever is added here is open to the world.
"""

ANYONE_WE_KNOW = {
    "GET /model/info",
    "GET /v1/me",
    "GET /v1/model",
    "GET /v1/model/info",
    "GET /v1/models",
    "GET /v1/models/{model:path}",
    "GET /v1/prices",
    "POST /v1/auth/password",
}
"""What every key opens, whatever its scopes."""

FAMILIES = {
    "/v1/admin/audit": "admin:audit",
    "/v1/admin/models": "admin:models",
    "/v1/admin/prices": "admin:prices",
    "/v1/admin/routes": "admin:models",
    "/v1/admin/tiers": "admin:tiers",
    "/v1/admin/usage": "admin:usage",
    "/v1/admin/users": "admin:users",
    "/v1/admin/users/{user_id}/invoices": "admin:usage",
    "/v1/chat": "chat",
    "/chat": "chat",
    "/v1/completions": "chat",
    "/v1/conversation": "chat",
    "/v1/collections": "documents",
    "/v1/documents": "documents",
    "/v1/retrieve": "documents",
    "/retrieve": "documents",
    "/v1/embeddings": "embeddings",
    "/v1/classify": "classify",
    "/v2/classify": "classify",
    "/classify": "classify",
    "/v1/image_classify": "classify",
    "/v2/image_classify": "classify",
    "/v1/batches": "jobs",
    "/v1/files": "files",
    "/v1/invoices": "usage",
    "/v1/jobs": "jobs",
    "/v1/keys": "keys",
    "/v1/messages": "chat",
    "/v1/messages/batches": "jobs",
    "/v1/process": "jobs",
    "/process": "jobs",
    "/v1/moderations": "chat",
    "/v1/requests": "usage",
    "/v1/rerank": "embeddings",
    "/v1/responses": "chat",
    "/v1/usage": "usage",
    "/usage": "usage",
}
"""The scope of every other route, by how its path begins."""

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return create_app(make_settings(tmp_path, tmp_path, embedded_models=False))


def guards(app: FastAPI) -> Iterator[tuple[str, str | None]]:
    """Every way into `app`, such as `GET /v1/keys`, and its guard; None is nobody's."""
    endpoints = front_door(app)
    yield from ((f"{e.method} {path}", e.scope) for path, e in endpoints.items())
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, Mount):
            yield f"GET {route.path}/*", None
            continue
        for method in (route.methods or {"ANY"}) - {"HEAD"}:
            endpoint = endpoints.get(route.path or "")
            if endpoint is None or endpoint.method != method:
                yield f"{method} {route.path}", guard_of(route)


def front_door(app: FastAPI) -> Mapping[str, Endpoint]:
    """The endpoints that are answered ahead of the app's own routes."""
    return cast("Any", app).endpoints


def expected(way: str) -> str | None:
    """The guard that `way` must have."""
    if (plain := without_api(way)) in PUBLIC:
        return None
    if plain in ANYONE_WE_KNOW:
        return ANY_CALLER
    parts = plain.partition(" ")[2].split("/")
    beginnings = ("/".join(parts[:count]) for count in range(len(parts), 1, -1))
    return next((FAMILIES[begin] for begin in beginnings if begin in FAMILIES), "some scope")


def without_api(way: str) -> str:
    """The same way in, not through `/api`."""
    return way.replace(" /api/", " /", 1)


def unguarded(app: FastAPI) -> list[tuple[str, str | None]]:
    """The ways in whose guard is not what it must be."""
    return [(way, guard) for way, guard in guards(app) if guard != expected(way)]


async def test_every_route_asks_for_its_scope_or_is_meant_to_be_open(app: FastAPI) -> None:
    found = dict(guards(app))

    assert unguarded(app) == []
    assert {without_api(way) for way, guard in found.items() if guard is None} == PUBLIC
    assert {guard for guard in found.values() if guard not in (None, ANY_CALLER)} <= {
        *SCOPES,
        *ADMIN_SCOPES,
    }
    assert found.keys() >= ANYONE_WE_KNOW


async def test_every_route_of_the_versions_is_guarded_alike_under_api(app: FastAPI) -> None:
    found = dict(guards(app))

    for way, guard in found.items():
        method, path = way.split(" ", 1)
        if path.startswith(("/v1", "/v2")):
            assert found[f"{method} /api{path}"] == guard, way


async def test_a_new_route_without_a_guard_is_found(app: FastAPI) -> None:
    @app.get("/v1/keys/throwaway")
    async def bare() -> None: ...

    @app.post("/v1/admin/users/throwaway")
    async def wrong_scope(caller: UsageCaller) -> None: ...

    @app.get("/throwaway")
    async def of_no_family(caller: UsageCaller) -> None: ...

    app.mount("/files", FastAPI())

    assert unguarded(app) == [
        ("GET /v1/keys/throwaway", None),
        ("POST /v1/admin/users/throwaway", "usage"),
        ("GET /throwaway", "usage"),
        ("GET /files/*", None),
    ]


async def test_no_guarded_route_says_anything_to_a_stranger(app: FastAPI) -> None:
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://galley") as client,
    ):
        answers = {
            way: await client.request(*way.split(" ", 1), headers={"authorization": "Bearer gk_x"})
            for way, guard in guards(app)
            if guard is not None
        }

    assert answers
    assert {way: answer.status_code for way, answer in answers.items()} == dict.fromkeys(
        answers, 401
    )
    bodies = {
        body.get("detail") or body["error"].get("code") or body["error"]["details"]["error_code"]
        for body in (answer.json() for answer in answers.values())
    }
    assert bodies == {"Invalid API key", "invalid_api_key"}
