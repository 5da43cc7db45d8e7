"""The OpenAPI document's share of the front door, and its pages, which need no network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import fastapi_offline
from fastapi import APIRouter, Body, FastAPI, Security
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from galley.core.errors import InternalError
from galley.dialects import openai
from galley.routers.deps import bearer
from galley.routers.front_door import Endpoint

_ASSETS = Path(fastapi_offline.__file__).parent / "static"
_REFUSALS = {
    401: "No key, or a key that opens nothing.",
    413: "The body is too large.",
    503: "The model is loading, or too many requests are waiting.",
}


def declared(endpoints: Iterable[Endpoint]) -> APIRouter:
    """Return routes that put `endpoints` into the document; the front door answers them."""
    router = APIRouter()
    for endpoint in endpoints:
        invalid = 400 if endpoint.dialect is openai else 422
        refusals = {400: "The input cannot be used.", invalid: "The input fits no schema."}
        router.add_api_route(
            endpoint.paths[0],
            _declaration(endpoint),
            methods=["POST"],
            response_model=endpoint.reply,
            description=endpoint.handle.__doc__,
            summary=endpoint.handle.__name__.replace("_", " ").capitalize(),
            tags=[endpoint.name],
            dependencies=[Security(bearer)],
            responses={
                status: {"description": text} for status, text in {**refusals, **_REFUSALS}.items()
            },
            openapi_extra=_multipart() if endpoint.paths[0] == "/v2/classify" else None,
        )
    return router


def _declaration(endpoint: Endpoint) -> Any:
    async def declaration(request: Any) -> None:
        raise InternalError("The front door was not asked.", code="internal_error")

    body = Body(openapi_examples={"example": {"value": endpoint.example}})
    declaration.__annotations__["request"] = Annotated[endpoint.request, body]
    declaration.__name__ = endpoint.handle.__name__
    return declaration


def _multipart() -> dict[str, Any]:
    """Describe the form that version 2 of classify takes beside JSON."""
    file = {"type": "string", "format": "binary"}
    properties = {
        "images": {"type": "array", "items": file, "maxItems": 32},
        "model": {"type": "string"},
        "top_k": {"type": "integer", "default": 5},
        "threshold": {"type": "number", "default": 0.0},
    }
    schema = {"type": "object", "properties": properties, "required": ["images"]}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}}}


def add_pages(app: FastAPI) -> None:
    """Serve `/docs` and `/redoc` with their scripts and styles from an installed package."""
    app.mount("/docs/assets", StaticFiles(directory=_ASSETS), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title} API",
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon.png",
            swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
        )

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        return get_redoc_html(
            openapi_url="/openapi.json",
            title=f"{app.title} API",
            redoc_js_url="/docs/assets/redoc.standalone.js",
            redoc_favicon_url="/docs/assets/favicon.png",
            with_google_fonts=False,
        )
