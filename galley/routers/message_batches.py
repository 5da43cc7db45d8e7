"""Message batches, in Anthropic's shape: many messages in one request, answered in the gaps."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from galley.dialects import anthropic
from galley.routers.bodies import BodyRoom, read_body
from galley.routers.deps import JobsCaller, RuntimeDep
from galley.routers.files import download
from galley.routers.openapi import refusals
from galley.schemas.message_batches import (
    CUSTOM_ID,
    DeletedMessageBatch,
    MessageBatch,
    MessageBatchList,
)
from galley.services.batch_lines import MOST_LINES
from galley.services.batch_replies import message_batch_list_of, message_batch_of

_PATH = "/v1/messages/batches"
router = APIRouter(
    prefix=_PATH, tags=["message batches"], responses=refusals(anthropic, 401, 403, 500)
)

Cursor = Annotated[str | None, Query(max_length=64)]
_EXAMPLE = {
    "requests": [
        {
            "custom_id": "first",
            "params": {
                "model": "galley/chat",
                "max_tokens": 64,
                "messages": [{"role": "user", "content": "What is FastAPI?"}],
            },
        }
    ]
}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["custom_id", "params"],
    "additionalProperties": False,
    "properties": {
        "custom_id": {"type": "string", "pattern": CUSTOM_ID},
        "params": {"type": "object", "description": "As the body of `POST /v1/messages`."},
    },
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["requests"],
                    "additionalProperties": False,
                    "properties": {
                        "requests": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MOST_LINES,
                            "items": _REQUEST,
                        }
                    },
                },
                "examples": {"example": {"value": _EXAMPLE}},
            }
        },
    }
}


@router.post(
    "",
    summary="Create a message batch",
    openapi_extra=_BODY,
    responses=refusals(anthropic, 400, 413, 429, 503),
)
async def create_message_batch(
    caller: JobsCaller, runtime: RuntimeDep, request: Request
) -> MessageBatch:
    """Have many messages answered while nobody else waits for a model."""
    room: BodyRoom = request.scope["bodies"]
    limit = runtime.settings.image_body_limit
    with room.hold() as take:
        body = await read_body(request.scope, request.receive, limit, take)
        request_id = request.scope["arrival"].request_id
        made = await runtime.message_batches.make(caller, body, request_id=request_id)
    return message_batch_of(made, _address(request))


@router.get("", summary="List message batches", responses=refusals(anthropic, 400))
async def list_message_batches(
    caller: JobsCaller,
    runtime: RuntimeDep,
    request: Request,
    after_id: Cursor = None,
    before_id: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> MessageBatchList:
    """List your message batches, the latest first; `before_id` goes back to later ones."""
    page = await runtime.message_batches.list(caller, after=after_id, before=before_id, limit=limit)
    return message_batch_list_of(page, _address(request))


@router.get(
    "/{message_batch_id}", summary="Retrieve a message batch", responses=refusals(anthropic, 404)
)
async def retrieve_message_batch(
    caller: JobsCaller, runtime: RuntimeDep, request: Request, message_batch_id: str
) -> MessageBatch:
    """Say how far one of your message batches is."""
    found = await runtime.message_batches.find(caller, message_batch_id)
    return message_batch_of(found, _address(request))


@router.get(
    "/{message_batch_id}/results",
    summary="Stream the results of a message batch",
    response_class=StreamingResponse,
    responses=refusals(anthropic, 404, 409)
    | {200: {"description": "A result per line.", "content": {"application/x-jsonl": {}}}},
)
async def retrieve_message_batch_results(
    caller: JobsCaller, runtime: RuntimeDep, message_batch_id: str
) -> Response:
    """Send the results of a message batch that has ended, as JSON lines."""
    file = await runtime.message_batches.results(caller, message_batch_id)
    return await download(runtime.files, file, "application/x-jsonl")


@router.post(
    "/{message_batch_id}/cancel",
    summary="Cancel a message batch",
    responses=refusals(anthropic, 404, 409),
)
async def cancel_message_batch(
    caller: JobsCaller, runtime: RuntimeDep, request: Request, message_batch_id: str
) -> MessageBatch:
    """Stop one of your message batches; what is done stays, and is in its results."""
    found = await runtime.message_batches.cancel(caller, message_batch_id)
    return message_batch_of(found, _address(request))


@router.delete(
    "/{message_batch_id}",
    summary="Delete a message batch",
    responses=refusals(anthropic, 404, 409),
)
async def delete_message_batch(
    caller: JobsCaller, runtime: RuntimeDep, message_batch_id: str
) -> DeletedMessageBatch:
    """Delete one of your message batches that has ended, with its requests and its results."""
    await runtime.message_batches.delete(caller, message_batch_id)
    return DeletedMessageBatch(id=message_batch_id)


def _address(request: Request) -> str:
    """Say where message batches are, as whoever asks knows it."""
    mount = request.scope["path"].partition(_PATH)[0]
    return f"{request.base_url}".rstrip("/") + mount + _PATH
