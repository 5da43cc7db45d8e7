"""The app: routes, middleware and error envelopes joined to a runtime. No logic."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp

from galley import __version__
from galley.core.errors import BadRequestError, GalleyError, NotFoundError
from galley.core.settings import Settings
from galley.dialects.base import dialect_of, dialect_of_nowhere
from galley.routers import (
    account,
    admin,
    auth,
    batches,
    chat,
    classify,
    collections,
    documents,
    embeddings,
    files,
    health,
    invoices,
    jobs,
    keys,
    message_batches,
    messages,
    moderations,
    openapi,
    prices,
    requests,
    rerank,
    responses,
    retrieve,
    routing,
    side_door,
    usage,
)
from galley.routers.answers import error_headers
from galley.routers.front_door import Endpoint, FrontDoor
from galley.routers.gate import Gate
from galley.routers.middleware import RequestMiddleware
from galley.routers.parsing import refuse
from galley.runtime import open_runtime

_SHOWN_PATH = 128  # characters of a path that the client made up
ENDPOINTS = (
    *chat.ENDPOINTS,
    *messages.ENDPOINTS,
    *responses.ENDPOINTS,
    *embeddings.ENDPOINTS,
    *rerank.ENDPOINTS,
    *moderations.ENDPOINTS,
    *classify.ENDPOINTS,
    *retrieve.ENDPOINTS,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the app. Two in one process share nothing.

    Args:
        settings: unset, they are read from the environment and the TOML file.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with open_runtime(settings, side_door.answer) as app.state.runtime:
            yield

    app = _App(
        title="Galley",
        version=__version__,
        description=openapi.DESCRIPTION,
        openapi_tags=[{"name": name, "description": text} for name, text in openapi.TAGS.items()],
        generate_unique_id_function=openapi.operation_id,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # It would look for OpenTelemetry's providers anew with every request.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.include_router(openapi.declared(ENDPOINTS))
    rooms = (
        responses, files, batches, account, auth, usage, requests, invoices, prices, routing,
        keys, admin, jobs, collections, documents, message_batches,
    )  # fmt: skip
    for room in (*rooms, health):
        app.include_router(room.router)
    for room in rooms:
        app.include_router(room.router, prefix="/api", include_in_schema=False)
    openapi.add_pages(app)
    openapi.correct_document(app)
    app.add_exception_handler(GalleyError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(HTTPException, _refuse_http)
    paths = {path: endpoint for endpoint in ENDPOINTS for path in endpoint.paths}
    paths |= {f"/api{path}": endpoint for path, endpoint in paths.items()}
    app.endpoints = paths
    return app


class _App(FastAPI):
    """FastAPI behind our own door: its layers around every request have their price."""

    endpoints: Mapping[str, Endpoint]

    def build_middleware_stack(self) -> ASGIApp:
        outermost = super().build_middleware_stack()
        assert isinstance(outermost, ServerErrorMiddleware)  # noqa: S101 - as Starlette builds it
        # Our own middleware answers what nobody caught, so that one is left out.
        return RequestMiddleware(Gate(FrontDoor(outermost.app, self.endpoints)))


async def _refuse(request: Request, error: Exception) -> Response:
    failure = cast("GalleyError", error)
    dialect = dialect_of(request.url.path, request.scope["headers"])
    body = dialect.error_body(failure, request.scope["arrival"].request_id)
    headers = {name.decode(): value.decode() for name, value in error_headers(failure)}
    return JSONResponse(body, failure.status, headers)


async def _refuse_invalid(request: Request, error: Exception) -> Response:
    details = cast("list[ErrorDetails]", cast("RequestValidationError", error).errors())
    try:
        refuse(details, dialect_of(request.url.path, request.scope["headers"]), within=())
    except GalleyError as failure:
        return await _refuse(request, failure)


async def _refuse_http(request: Request, error: Exception) -> Response:
    """Word what the framework itself refuses: unknown paths and wrong methods."""
    found, path = cast("HTTPException", error), request.url.path
    headers = dict(found.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(_allowed(request)) or headers["Allow"]
    dialect = dialect_of(path, request.scope["headers"])
    if found.status_code == 405:
        shown, can = path[:_SHOWN_PATH], headers.get("Allow", "nothing")
        failure: GalleyError = BadRequestError(
            f"There is no {request.method} {shown} here, only {can}.", code="method_not_allowed"
        )
    elif found.status_code != 404:
        failure = BadRequestError(found.detail, code="invalid_request")
    else:
        meant = _meant(request)
        then = "/docs lists what there is."
        if meant:
            has_to = "end with" if meant.endswith(path) else "leave out"
            then = f"For {meant[:_SHOWN_PATH]}, your client's base URL has to {has_to} /v1."
        failure = NotFoundError(
            f"There is no {request.method} {path[:_SHOWN_PATH]} here. {then}", code="not_found"
        )
        dialect = dialect_of_nowhere(meant or path, request.scope["headers"])
    body = dialect.error_body(failure, request.scope["arrival"].request_id)
    return JSONResponse(body, found.status_code, headers)


def _meant(request: Request) -> str | None:
    """Name the route that a client asks for whose base URL lacks `/v1`, or has it on top."""
    path = request.url.path
    other = path.removeprefix("/v1") if path.startswith("/v1/v1/") else f"/v1{path}"
    scope = {**request.scope, "path": other}
    found = any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    return other if found else None


def _allowed(request: Request) -> list[str]:
    """Name the methods of a path; the framework names those of its first route alone."""
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    ]
