"""Files, in OpenAI's shape: what batches and other jobs read and write."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from galley.core.errors import BadRequestError
from galley.db.work_tables import File
from galley.dialects import openai
from galley.routers.deps import FilesCaller, RuntimeDep
from galley.routers.openapi import refusals
from galley.routers.parsing import validate
from galley.routers.uploads import read_upload
from galley.schemas.files import DeletedFile, FileCreate, FileList, FileReply, Purpose
from galley.services.files import FileService, reply_of

router = APIRouter(prefix="/v1/files", tags=["files"], responses=refusals(openai, 401, 403, 500))

After = Annotated[str | None, Query(description="The last id of the page before.", max_length=64)]
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(Purpose.__args__)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer"},
                    },
                },
                "examples": {"example": {"value": {"file": "batch.jsonl", "purpose": "batch"}}},
            }
        },
    }
}
_NESTED = "expires_after"


@router.post("", summary="Upload a file", openapi_extra=_FORM, responses=refusals(openai, 400, 413))
async def create_file(caller: FilesCaller, runtime: RuntimeDep, request: Request) -> FileReply:
    """Upload a file; what it is for is its `purpose`. It goes to disk as it comes in."""
    files = runtime.files
    async with files.draft(caller) as draft:
        upload = await read_upload(request, draft.write, most_bytes=files.most_bytes)
        asked = validate(FileCreate, _unfolded(upload.fields), openai)
        if not draft.size:
            raise BadRequestError("The file is empty.", code="empty_file", param="file")
        lifetime_s = asked.expires_after.seconds if asked.expires_after else None
        return reply_of(
            await files.keep(caller, draft, upload.filename, asked.purpose, lifetime_s=lifetime_s)
        )


@router.get("", summary="List files", responses=refusals(openai, 400))
async def list_files(
    caller: FilesCaller,
    runtime: RuntimeDep,
    purpose: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z_-]+$")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    order: Literal["asc", "desc"] = "desc",
) -> FileList:
    """List your files, the latest first, at most 1000 at a time."""
    return await runtime.files.list(
        caller, purpose=purpose, after=after, limit=limit, latest_first=order == "desc"
    )


@router.get("/{file_id}", summary="Retrieve a file", responses=refusals(openai, 404))
async def retrieve_file(caller: FilesCaller, runtime: RuntimeDep, file_id: str) -> FileReply:
    """Describe one of your files."""
    return reply_of(await runtime.files.find(caller, file_id))


@router.delete("/{file_id}", summary="Delete a file", responses=refusals(openai, 404))
async def delete_file(caller: FilesCaller, runtime: RuntimeDep, file_id: str) -> DeletedFile:
    """Delete one of your files; a batch that still reads it fails."""
    return await runtime.files.delete(caller, file_id)


@router.get(
    "/{file_id}/content",
    summary="Download a file",
    response_class=StreamingResponse,
    responses=refusals(openai, 404)
    | {200: {"description": "The file.", "content": {"application/octet-stream": {}}}},
)
async def retrieve_file_content(caller: FilesCaller, runtime: RuntimeDep, file_id: str) -> Response:
    """Download one of your files, as it came."""
    return await download(runtime.files, await runtime.files.find(caller, file_id))


async def download(
    files: FileService, file: File, media_type: str = "application/octet-stream"
) -> Response:
    """Send `file`, as something that is not to be shown.

    Raises:
        NotFoundError: its bytes are gone.
    """
    pieces = files.read(file)
    first = await anext(pieces, b"")  # before the headers leave
    return StreamingResponse(
        _after(first, pieces),
        media_type=media_type,
        headers={
            "content-length": str(file.size),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
            "x-content-type-options": "nosniff",
        },
    )


async def _after(first: bytes, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    try:
        yield first
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()


def _unfolded(fields: dict[str, str]) -> dict[str, Any]:
    """Join fields that are named as parts of another, such as `expires_after[seconds]`."""
    nested = {
        name[len(_NESTED) + 1 : -1]: value
        for name, value in fields.items()
        if name.startswith(f"{_NESTED}[") and name.endswith("]")
    }
    plain = {name: value for name, value in fields.items() if not name.startswith(f"{_NESTED}[")}
    return plain | ({_NESTED: nested} if nested else {})
