"""Text, in the shape of OpenAI's Responses: answers that are kept, and looked up again."""

from contextlib import aclosing
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query
from pydantic import AfterValidator

from galley.dialects import openai
from galley.dialects.responses import ResponseFrames
from galley.routers.deps import ChatCaller, RuntimeDep
from galley.routers.front_door import Call, Endpoint
from galley.routers.openapi import refusals
from galley.schemas.responses import (
    DeletedResponse,
    InputItemList,
    ResponseReply,
    ResponsesRequest,
)

router = APIRouter(
    prefix="/v1/responses", tags=["responses"], responses=refusals(openai, 401, 403, 404, 500)
)


def _not_streamed(stream: bool) -> bool:
    if stream:
        raise ValueError("a response that is kept is not streamed again")
    return stream


Streamed = Annotated[
    bool, AfterValidator(_not_streamed), Query(description="Not supported; false only.")
]
After = Annotated[str | None, Query(description="The last id of the page before.", max_length=256)]


async def create_response(call: Call) -> None:
    """Answer a conversation, whole or as server-sent events, and keep it unless told otherwise."""
    request = await call.parse(ResponsesRequest)
    created = int(call.arrival.at.timestamp())
    frames = ResponseFrames(call.arrival.request_id, created, request)
    call.dialect = frames
    answer = call.runtime.responses.stream(call.charge, request, frames)
    if request.stream:
        await call.stream(answer, lambda _: frames)
        return
    async with aclosing(answer):
        async for pieces in answer:
            for delta in pieces:
                frames.add(delta)
    await call.answer(orjson.dumps(frames.whole))


@router.get("/{response_id}", summary="Retrieve a response", responses=refusals(openai, 400))
async def retrieve_response(
    caller: ChatCaller, runtime: RuntimeDep, response_id: str, stream: Streamed = False
) -> ResponseReply:
    """Look up one of your responses that were stored."""
    return await runtime.responses.find(caller.user_id, response_id)


@router.delete("/{response_id}", summary="Delete a response")
async def delete_response(
    caller: ChatCaller, runtime: RuntimeDep, response_id: str
) -> DeletedResponse:
    """Delete one of your responses; those that went on from it stay as they are."""
    return await runtime.responses.delete(caller.user_id, response_id)


@router.get(
    "/{response_id}/input_items", summary="List input items", responses=refusals(openai, 400)
)
async def list_input_items(
    caller: ChatCaller,
    runtime: RuntimeDep,
    response_id: str,
    order: Literal["asc", "desc"] = "desc",
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> InputItemList:
    """List all that the model was told for a response, in pages."""
    return await runtime.responses.input_items(
        caller.user_id, response_id, order=order, after=after, limit=limit
    )


ENDPOINTS = (
    Endpoint(
        name="responses",
        scope="chat",
        paths=("/v1/responses",),
        dialect=openai,
        handle=create_response,
        request=ResponsesRequest,
        reply=ResponseReply,
        example={"model": "galley/chat", "input": "What is FastAPI?", "max_output_tokens": 64},
        body_limit="image_body_limit",
    ),
)
