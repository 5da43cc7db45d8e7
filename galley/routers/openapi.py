"""The OpenAPI document's share of the front door, and its pages, which need no network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import fastapi_offline
from fastapi import APIRouter, Body, FastAPI, Query, Request, Security
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from galley.core.errors import InternalError
from galley.dialects import anthropic, native
from galley.dialects.base import Dialect, dialect_of
from galley.routers.deps import bearer
from galley.routers.front_door import Endpoint
from galley.schemas.errors import AnthropicErrorReply, DetailReply, ErrorReply

_ASSETS = Path(fastapi_offline.__file__).parent / "static"
_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}
# ReDoc would fetch a logo from its makers, and a page of docs has nothing to ask elsewhere.
_POLICY = {
    "content-security-policy": "default-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " worker-src blob:; frame-ancestors 'none'"
}
DESCRIPTION = (
    "A self-hosted AI API: chat, embeddings and image classification. Press **Authorize** and"
    " paste your key; then the examples below run as they stand. Every route is also served"
    " under `/api`."
)
TAGS = {
    "chat": "Conversations: OpenAI's shape, and a simple one.",
    "messages": "Conversations in Anthropic's shape.",
    "count_tokens": "How long such a conversation is.",
    "responses": "Conversations in the shape of OpenAI's Responses, kept to go on from.",
    "completions": "Text that goes on from a prompt, in OpenAI's older shape.",
    "embeddings": "Texts as vectors, in OpenAI's shape.",
    "moderations": "What texts are about that may not be welcome.",
    "rerank": "Documents in order of how relevant they are to a question.",
    "classify": "What is in a picture.",
    "documents": "Collections of documents.",
    "retrieve": "What documents say to a question.",
    "models": "What this server has to offer.",
    "files": "Files that batches and other jobs read and write, in OpenAI's shape.",
    "batches": "Many requests in one file, answered in the gaps, in OpenAI's shape.",
    "message batches": "Many messages in one request, answered in the gaps, in Anthropic's shape.",
    "jobs": "Work that goes on in the background.",
    "account": "Your own use of it.",
    "auth": "Logging in and out: tokens for programs, cookies for browsers.",
    "keys": "Your own API keys.",
    "admin": "Users, their keys, tiers, and the log of what admins did.",
    "operations": "For those who run the server; no key needed.",
}
_REASONS = {
    400: "The input cannot be used.",
    401: "No key, or a key that opens nothing.",
    403: "The key, or its owner, may not do this.",
    404: "There is no such thing, or not for you.",
    409: "It collides with what is there.",
    413: "The body is too large.",
    422: "The input fits no schema.",
    429: "A limit is used up; `retry-after` says when to come back.",
    500: "The server failed; its log knows more.",
    502: "The model failed.",
    503: "The model is loading, or too many requests are waiting.",
    504: "The model took too long.",
}


def refusals(
    dialect: Dialect, *statuses: int, or_anthropic: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Describe answers that say no, for `responses=` of a route.

    Args:
        or_anthropic: some callers speak Anthropic's dialect there.
    """
    shape: Any = DetailReply
    if dialect is not native:
        shape = AnthropicErrorReply if dialect is anthropic else ErrorReply
    if or_anthropic:
        shape = shape | AnthropicErrorReply
    return {status: {"description": _REASONS[status], "model": shape} for status in statuses}


def declared(endpoints: Iterable[Endpoint]) -> APIRouter:
    """Return routes that put `endpoints` into the document; the front door answers them."""
    router = APIRouter()
    for endpoint in endpoints:
        unexpected = {409} if endpoint.dialect is native else {409, 422}
        always = endpoint.paths[0].endswith("/stream")
        streams = always or "stream" in endpoint.request.model_fields
        responses = refusals(endpoint.dialect, *sorted(_REASONS.keys() - unexpected))
        responses |= {200: {"description": "The answer.", "content": _STREAM if streams else {}}}
        router.add_api_route(
            endpoint.paths[0],
            _declaration(endpoint),
            methods=[endpoint.method],
            response_model=None if always else endpoint.reply,
            response_class=Response if always else JSONResponse,
            description=_description(endpoint),
            summary=endpoint.handle.__name__.replace("_", " ").capitalize(),
            tags=[endpoint.name],
            dependencies=[Security(bearer)],
            responses=responses,
            openapi_extra=_multipart() if endpoint.paths[0] == "/v2/classify" else None,
        )
    return router


def _description(endpoint: Endpoint) -> str:
    aliases = " and ".join(f"`{path}`" for path in endpoint.paths[1:])
    return f"{endpoint.handle.__doc__}" + (f"\n\nAlso served at {aliases}." if aliases else "")


def _declaration(endpoint: Endpoint) -> Any:
    async def declaration(request: Any) -> None:
        raise InternalError("The front door was not asked.", code="internal_error")

    given = Query()
    if endpoint.method == "POST":
        given = Body(openapi_examples={"example": {"value": endpoint.example}})
    declaration.__annotations__["request"] = Annotated[endpoint.request, given]
    declaration.__name__ = endpoint.handle.__name__
    return declaration


def _multipart() -> dict[str, Any]:
    """Describe the form that version 2 of classify takes beside JSON."""
    file = {"type": "string", "format": "binary"}
    properties = {
        "images": {"type": "array", "items": file, "minItems": 1, "maxItems": 32},
        "model": {"type": "string", "default": "galley/classify"},
        "top_k": {"type": "integer", "default": 5},
        "threshold": {"type": "number", "default": 0.0},
    }
    schema = {"type": "object", "properties": properties, "required": ["images"]}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}}}


def operation_id(route: APIRoute) -> str:
    """Name an operation as its function is named, for clients made from the document."""
    return route.name


def correct_document(app: FastAPI) -> None:
    """Word the document as the server words its answers.

    OpenAI's and Anthropic's dialects say 400 where FastAPI says 422, and no dialect has
    FastAPI's shape for it.
    """
    made = app.openapi

    def openapi_document() -> dict[str, Any]:
        document = made()
        for path, operations in document["paths"].items():
            if dialect_of(path) is not native:
                for operation in operations.values():
                    operation["responses"].pop("422", None)
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for schema in schemas.values():
            if schema.get("additionalProperties") is True:  # as without it, but clutters examples
                del schema["additionalProperties"]
        return document

    app.openapi = openapi_document


_pages = APIRouter(include_in_schema=False)


def add_pages(app: FastAPI) -> None:
    """Serve `/docs` and `/redoc` with their scripts and styles from an installed package."""
    app.mount("/docs/assets", StaticFiles(directory=_ASSETS), name="docs-assets")
    app.include_router(_pages)


# Not within `add_pages`: FastAPI keeps every route's function for good, and with it all that the
# function knows, which would be each app that ever was.
@_pages.get("/docs")
async def _docs(request: Request) -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{request.app.title} API",
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon.png",
        swagger_ui_parameters={
            "persistAuthorization": True,
            "tryItOutEnabled": True,
            "defaultModelsExpandDepth": 0,
        },
    )
    page.headers.update(_POLICY)
    return page


@_pages.get("/redoc")
async def _redoc(request: Request) -> HTMLResponse:
    page = get_redoc_html(
        openapi_url="/openapi.json",
        title=f"{request.app.title} API",
        redoc_js_url="/docs/assets/redoc.standalone.js",
        redoc_favicon_url="/docs/assets/favicon.png",
        with_google_fonts=False,
    )
    page.headers.update(_POLICY)
    return page
