"""Documents: added as text or as files, listed, shown, replaced, deleted."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar, cast
from uuid import uuid4

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic_core import ErrorDetails

from galley.core.caller import Caller
from galley.core.errors import BadRequestError
from galley.dialects import native
from galley.routers.bodies import BodyRoom, BodyRoute, read_body
from galley.routers.deps import DocumentsCaller, RuntimeDep
from galley.routers.hangup import Listening
from galley.routers.keys import After, PageSize
from galley.routers.openapi import refusals
from galley.routers.parsing import parse, refuse, validate
from galley.routers.uploads import read_upload
from galley.runtime import Runtime
from galley.schemas.documents import (
    DocumentCreate,
    DocumentList,
    DocumentReplace,
    DocumentReply,
    DocumentWithText,
    Removed,
    UploadCreate,
    UploadReplace,
    Written,
)
from galley.services.charge import Charge
from galley.services.documents import Arriving, Put
from galley.services.extraction import label
from galley.stores.passages import Document, Status

router = APIRouter(
    prefix="/v1/documents",
    tags=["documents"],
    route_class=BodyRoute,
    responses=refusals(native, 401, 403, 422, 500),
)

W = TypeVar("W", bound=Written)

Words = Annotated[str | None, Query(min_length=1, max_length=200)]
_WRITTEN_AT_ONCE = 1_000_000
_TEXT = {"x-content-type-options": "nosniff"}
_EXAMPLE = {
    "name": "tides.md",
    "text": "# Tides\n\nThe moon pulls the sea.",
    "media_type": "text/markdown",
}


def _body(json: type[Written], form: type[Written]) -> dict[str, Any]:
    """Describe what a route takes that reads its body itself."""
    fields = form.model_json_schema()["properties"]
    file = {"type": "string", "format": "binary"}
    schema = {"type": "object", "required": ["file"], "properties": {"file": file, **fields}}
    known = json.model_json_schema()
    content = {
        "application/json": {"schema": known, "examples": {"example": {"value": _EXAMPLE}}},
        "multipart/form-data": {"schema": schema},
    }
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "",
    status_code=201,
    response_model=DocumentReply,
    summary="Add a document",
    openapi_extra=_body(DocumentCreate, UploadCreate),
    responses=refusals(native, 400, 404, 409, 413, 429, 502, 503, 504)
    | {202: {"description": "It will be indexed by a job.", "model": DocumentReply}},
)
async def create_document(
    caller: DocumentsCaller, runtime: RuntimeDep, request: Request
) -> Response:
    """Add a document as text or as a file: text, Markdown, HTML, PDF or DOCX.

    It can be found when this answers 201; a large one answers 202, and a job indexes it.
    """

    async def add(charge: Charge, asked: Written, given: Arriving) -> Put:
        place = cast("DocumentCreate | UploadCreate", asked).collection
        return await runtime.documents.service.add(charge, given, place)

    return await _written(caller, runtime, request, DocumentCreate, UploadCreate, add)


@router.get("", summary="List documents", responses=refusals(native, 400, 404))
async def list_documents(
    caller: DocumentsCaller,
    runtime: RuntimeDep,
    collection: Words = None,
    name: Words = None,
    status: Status | None = None,
    after: After = None,
    limit: PageSize = 100,
) -> DocumentList:
    """List your documents, the oldest first; those of one collection, name or status."""
    page = await runtime.documents.service.documents(
        caller, collection=collection, name=name, status=status, after=after, limit=limit
    )
    return DocumentList(data=[_document(row) for row in page.rows], has_more=page.has_more)


@router.get(
    "/{document_id}",
    response_model=DocumentWithText,
    summary="Show a document",
    responses=refusals(native, 404),
)
async def retrieve_document(
    caller: DocumentsCaller, runtime: RuntimeDep, document_id: str
) -> Response:
    """Show a document with its text, in which the offsets of passages count."""
    service = runtime.documents.service
    known = await service.document(caller, document_id)
    draft = await service.draft(caller, document_id)
    shown = _document(known).model_dump(mode="json") | {"text": draft.text}
    body = await asyncio.to_thread(orjson.dumps, shown)
    return Response(body, media_type="application/json", headers=_TEXT)


@router.get(
    "/{document_id}/text",
    response_class=Response,
    summary="Show a document's text",
    responses=refusals(native, 404) | {200: {"content": {"text/plain": {}}}},
)
async def retrieve_text(caller: DocumentsCaller, runtime: RuntimeDep, document_id: str) -> Response:
    """Show the text of a document and nothing else."""
    draft = await runtime.documents.service.draft(caller, document_id)
    body = await asyncio.to_thread(draft.text.encode)
    return Response(body, media_type="text/plain; charset=utf-8", headers=_TEXT)


@router.put(
    "/{document_id}",
    response_model=DocumentReply,
    summary="Replace a document",
    openapi_extra=_body(DocumentReplace, UploadReplace),
    responses=refusals(native, 400, 404, 413, 429, 502, 503, 504)
    | {202: {"description": "It will be indexed by a job.", "model": DocumentReply}},
)
async def replace_document(
    caller: DocumentsCaller, runtime: RuntimeDep, document_id: str, request: Request
) -> Response:
    """Put a new version in the place of a document; the old one is found until it is there."""

    async def put(charge: Charge, _: Written, given: Arriving) -> Put:
        return await runtime.documents.service.replace(charge, document_id, given)

    return await _written(caller, runtime, request, DocumentReplace, UploadReplace, put, status=200)


@router.delete("/{document_id}", summary="Delete a document", responses=refusals(native, 404))
async def delete_document(
    caller: DocumentsCaller, runtime: RuntimeDep, document_id: str
) -> Removed:
    """Delete a document; it is found no more when this answers."""
    await runtime.documents.service.remove(caller, document_id)
    return Removed(id=document_id, object="document.deleted")


async def _written(
    caller: Caller,
    runtime: Runtime,
    request: Request,
    json: type[Written],
    form: type[Written],
    write: Callable[[Charge, Any, Arriving], Any],
    *,
    status: int = 201,
) -> Response:
    """Read a document, have it written as one request that is booked, and say what became of it."""
    async with runtime.meter.hold(request.scope["arrival"], caller, "documents") as charge:
        await runtime.meter.check(charge)  # before a large file is taken in, and read
        async with _arriving(request, runtime, json, form) as (asked, given):
            with Listening(request.receive, runtime.settings.request_timeout) as listening:
                put: Put = await write(charge, asked, given)
                listening.stop()
        await runtime.meter.settle(charge)
    headers = {name.decode(): value.decode() for name, value in charge.headers}
    reply = _document(put.document)
    if put.job_id is not None:
        reply.job_id = put.job_id
        headers["location"] = f"/v1/jobs/{put.job_id}"
        status = 202
    return Response(reply.model_dump_json(), status, headers, "application/json")


@asynccontextmanager
async def _arriving(
    request: Request, runtime: Runtime, json: type[Written], form: type[Written]
) -> AsyncGenerator[tuple[Written, Arriving]]:
    """Give what a request says of a document, and its text or file, which is gone afterwards."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        limit, room = runtime.settings.body_limit, cast("BodyRoom", request.scope["bodies"])
        with room.hold() as take:
            body = await read_body(request.scope, request.receive, limit, take)
            asked = cast("DocumentReplace", await parse(json, body, native, runtime.heavy))
            yield asked, _described(asked, asked.text, asked.name, asked.media_type)
        return
    path = runtime.documents.incoming / str(uuid4())
    try:
        with path.open("xb") as file:
            incoming = _Incoming(file)
            most = runtime.settings.file_limit
            upload = await read_upload(request, incoming.write, most_bytes=most)
            await incoming.flush()
        if not incoming.size:
            raise BadRequestError("The file is empty.", code="document_empty", param="file")
        told = cast("UploadReplace", validate(form, _fields(upload.fields), native))
        name = told.name or label(upload.filename)
        yield told, _described(told, path, name, told.media_type)
    finally:
        path.unlink(missing_ok=True)


class _Incoming:
    """A file that grows as it comes in; the disk is waited for on another thread."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self._file = file
        self._fresh = bytearray()

    async def write(self, data: bytes) -> None:
        self.size += len(data)
        self._fresh += data
        if len(self._fresh) >= _WRITTEN_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        fresh, self._fresh = self._fresh, bytearray()
        await asyncio.to_thread(self._file.write, fresh)
        await asyncio.to_thread(self._file.flush)


def _described(
    asked: Written, source: str | Path, name: str | None, media_type: str | None
) -> Arriving:
    return Arriving(source, name, media_type, asked.metadata, asked.background)


def _fields(fields: dict[str, str]) -> dict[str, Any]:
    """Form fields are text; metadata is JSON in it."""
    found: dict[str, Any] = dict(fields)
    if "metadata" in found:
        try:
            found["metadata"] = orjson.loads(found["metadata"])
        except orjson.JSONDecodeError:
            fault = ErrorDetails(
                type="json_invalid", loc=("metadata",), msg="Invalid JSON", input=None
            )
            refuse([fault], native)
    return found


def _document(found: Document) -> DocumentReply:
    return DocumentReply(
        id=found.id,
        collection=found.collection_id,
        name=found.name,
        media_type=found.media_type,
        metadata=dict(found.metadata),
        status=found.status,
        error=found.error,
        characters=found.characters,
        bytes=found.bytes,
        passages=found.passages,
        created_at=found.created_at,
        updated_at=found.updated_at,
    )
