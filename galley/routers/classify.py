"""What is in a picture: one (version 1), or up to 32 (version 2)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from galley.core.errors import BadRequestError, UnprocessableError
from galley.dialects import native
from galley.routers.front_door import Call, Endpoint
from galley.routers.long_texts import TakenOut, take_out
from galley.routers.parsing import BIG, refuse, validate
from galley.schemas.classify import (
    MAX_IMAGES,
    ClassifyBatchReply,
    ClassifyBatchRequest,
    ClassifyReply,
    ClassifyRequest,
)
from galley.services.images import Labelled, decode_base64

DEFAULT = "galley/classify"
_LITTLE = 65_536  # characters of base64, which are read sooner than another thread is woken
_PIECE = 262_144  # bytes of a form, after which others have their turn
_SQUARE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQMAAAD+wSzIAAAAA1BMVEXIPCh+gCsnAAAA"
    "C0lEQVR42mNgQAUAABAAAaoZ+IIAAAAASUVORK5CYII="
)


async def classify(call: Call) -> None:
    """Name the five likeliest things in a picture."""
    taken = await _take_out(call)
    request = await call.parse(ClassifyRequest)
    pictures = await _decoded(call, [taken.text(request.image)])
    (result,) = await call.runtime.images.classify(call.charge, pictures, model=DEFAULT, top_k=5)
    if isinstance(result, BadRequestError):
        # A new one: an error that is in a local variable of its own trace keeps the body alive.
        raise BadRequestError(result.message, code=result.code, param=result.param)
    predictions = [{"label": name, "confidence": round(p, 4)} for name, _, p in result.labels]
    await call.answer(orjson.dumps({"predictions": predictions, "model": call.served_model}))


async def classify_batch(call: Call) -> None:
    """Name the likeliest things in up to 32 pictures, as JSON or as multipart files."""
    if call.sends_form:
        request, names, pictures = await _uploads(call)
    else:
        taken = await _take_out(call)
        request = await _batch(call)
        names = [image.filename for image in request.images]
        pictures = await _decoded(call, [taken.text(image.image) for image in request.images])
    results = await call.runtime.images.classify(
        call.charge,
        pictures,
        model=request.model or DEFAULT,
        top_k=request.top_k,
        threshold=request.threshold,
    )
    rows = [
        _row(i, name, found) for i, (name, found) in enumerate(zip(names, results, strict=True))
    ]
    body = {
        "model": call.served_model,
        "results": rows,
        "timings_ms": _timings(call, results),
        "request_id": call.arrival.request_id,
    }
    await call.answer(orjson.dumps(body))


async def _take_out(call: Call) -> TakenOut:
    """Take the pictures out of a large body; what is left is the call's."""
    if len(call.body) <= BIG or call.sends_form:
        return TakenOut(call.body, {})
    taken = await asyncio.get_running_loop().run_in_executor(
        call.runtime.heavy, take_out, call.body, b"image"
    )
    call.body = taken.body
    return taken


async def _decoded(call: Call, texts: Sequence[str | memoryview]) -> list[bytes | BadRequestError]:
    """Read base64, off the event loop where there is more than a little."""
    if sum(map(len, texts)) <= _LITTLE:
        return list(map(_read, texts))
    return await asyncio.get_running_loop().run_in_executor(
        call.runtime.heavy, lambda: list(map(_read, texts))
    )


def _read(text: str | memoryview) -> bytes | BadRequestError:
    try:
        return decode_base64(text)
    except BadRequestError as error:
        # A new one: the trace of this one keeps the body alive.
        return BadRequestError(error.message, code=error.code, param=error.param)


async def _batch(call: Call) -> ClassifyBatchRequest:
    """Read version 2's body, or version 1's."""
    try:
        return await call.parse(ClassifyBatchRequest)
    except UnprocessableError:
        try:
            single = await call.parse(ClassifyRequest)
        except UnprocessableError:
            single = None
        if single is None:
            raise
    return ClassifyBatchRequest.model_validate({"images": [single.model_dump()]})


class _Form(MultiPartParser):
    """A form that is in memory already, and stays there."""

    spool_max_size = 2**40


async def _uploads(
    call: Call,
) -> tuple[ClassifyBatchRequest, list[str | None], list[bytes | BadRequestError]]:
    # Not with the client's charset: some of Python's codecs take hours for a megabyte.
    _, options = parse_options_header(call.header(b"content-type"))
    boundary = options.get(b"boundary", b"").decode("latin-1")
    # The parser is a coroutine that waits for nothing: it has a loop and a thread of its own, so
    # that nobody else waits for it either.
    items = await asyncio.get_running_loop().run_in_executor(
        call.runtime.heavy, lambda: asyncio.run(_items(call.body, boundary))
    )
    fields = {name: value for name, value in items if isinstance(value, str)}
    files = [value for _, value in items if isinstance(value, tuple)]
    if not files:
        missing = {"type": "missing", "loc": ("images",), "msg": "Field required"}
        refuse([missing], native)  # pyright: ignore[reportArgumentType] - it has no input to show
    stand_ins = [{"image": "-"} for _ in files]
    request = validate(ClassifyBatchRequest, fields | {"images": stand_ins}, native)
    return request, [name for name, _ in files], [data for _, data in files]


async def _items(
    body: bytes | bytearray, boundary: str
) -> list[tuple[str, str | tuple[str | None, bytes]]]:
    """Read a form's fields by name: texts, or files with theirs.

    Raises:
        BadRequestError: it is no form, or has too much in it.
    """

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), _PIECE):
            yield bytes(body[start : start + _PIECE])

    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'})
    parser = _Form(headers, pieces(), max_files=MAX_IMAGES, max_fields=8)  # pyright: ignore[reportArgumentType] - it only iterates
    try:
        form = await parser.parse()
        return [
            (name, (value.filename, await value.read()) if isinstance(value, UploadFile) else value)
            for name, value in form.multi_items()
        ]
    except MultiPartException as error:
        raise BadRequestError(f"Invalid form: {error.message}", code="invalid_form") from error
    finally:
        for file in parser._files_to_close_on_error:  # pyright: ignore[reportPrivateUsage] - the form lacks a part without end
            file.close()


def _row(index: int, name: str | None, found: Labelled | BadRequestError) -> dict[str, Any]:
    row: dict[str, Any] = {"index": index, "filename": name}
    if isinstance(found, BadRequestError):
        nothing: list[Any] = []
        return row | {
            "width": None, "height": None, "predictions": nothing, "error": found.message,
        }  # fmt: skip
    predictions = [
        {"label": label, "class_id": number, "confidence": round(confidence, 4)}
        for label, number, confidence in found.labels
    ]
    size = {"width": found.picture.width, "height": found.picture.height}
    return row | size | {"predictions": predictions, "error": None}


def _timings(call: Call, results: list[Labelled | BadRequestError]) -> dict[str, float]:
    done = [found.picture for found in results if isinstance(found, Labelled)]
    return {
        "decode": round(max((p.decode_ms for p in done), default=0), 2),
        "queue": round(max((p.queue_ms for p in done), default=0), 2),
        "inference": round(max((p.inference_ms for p in done), default=0), 2),
        "total": round(call.arrival.elapsed_ms(), 2),
    }


ENDPOINTS = (
    Endpoint(
        name="classify",
        scope="classify",
        paths=("/v1/classify", "/classify", "/v1/image_classify"),
        dialect=native,
        handle=classify,
        request=ClassifyRequest,
        reply=ClassifyReply,
        example={"image": _SQUARE, "filename": "square.png"},
        body_limit="image_body_limit",
    ),
    Endpoint(
        name="classify",
        scope="classify",
        paths=("/v2/classify", "/v2/image_classify"),
        dialect=native,
        handle=classify_batch,
        request=ClassifyBatchRequest,
        reply=ClassifyBatchReply,
        example={"images": [{"image": _SQUARE, "filename": "square.png"}], "top_k": 5},
        body_limit="image_body_limit",
    ),
)
