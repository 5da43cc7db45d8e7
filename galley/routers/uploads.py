"""Forms with one file, which goes where it is kept as it comes in: it may be half a gigabyte."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from galley.core.errors import BadRequestError, CancelledError, RequestTooLargeError

FILE = "file"
"""What the file's part of the form is named."""
MOST_FIELDS = 16
LONGEST_FIELD = 65_536  # bytes
OVERHEAD = 2_000_000  # bytes that a form may have besides its file
_PIECE = 65_536  # bytes of a form, after which others have their turn


class Upload(NamedTuple):
    """A form: the name that its file came with, and its other fields."""

    filename: str
    fields: dict[str, str]


async def read_upload(
    request: Request, write: Callable[[bytes], Awaitable[None]], *, most_bytes: int
) -> Upload:
    """Read a form, and hand its file to `write` piece by piece.

    Args:
        most_bytes: the largest file.
    Raises:
        BadRequestError: it is no form, or has no file.
        RequestTooLargeError: it has more bytes than that.
        CancelledError: the caller hung up.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise BadRequestError(
            "This route takes a form (multipart/form-data) with a file.", code="invalid_form"
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most_bytes + OVERHEAD:
        raise _too_large(most_bytes)
    try:
        form = _Form(boundary)
        size = 0
        async for piece in _pieces(request):
            size += len(piece)
            if size > most_bytes + OVERHEAD:
                raise _too_large(most_bytes)
            if data := form.feed(piece):
                await write(data)
            await asyncio.sleep(0)
        return form.end()
    except (FormParserError, UnicodeDecodeError) as error:
        raise BadRequestError(f"Invalid form: {error}.", code="invalid_form") from error


async def _pieces(request: Request) -> AsyncGenerator[bytes]:
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("The caller hung up.", code="client_closed_request")
        more = message.get("more_body", False)
        body = message.get("body", b"")
        for begin in range(0, len(body), _PIECE):
            yield body[begin : begin + _PIECE]


def _too_large(most_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The file is larger than {most_bytes} bytes.", code="request_too_large"
    )


class _Form:
    """A form as it comes in."""

    def __init__(self, boundary: bytes) -> None:
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_name,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._whole = False
        self._fresh = bytearray()  # of the file
        self._begin_part()

    def feed(self, piece: bytes) -> bytes:
        """Read `piece` of the form; return what is in it of the file."""
        self._parser.write(piece)
        fresh, self._fresh = bytes(self._fresh), bytearray()
        return fresh

    def end(self) -> Upload:
        """Say what there was, after the last piece."""
        if not self._whole:
            raise FormParserError("it breaks off")
        if self._filename is None:
            raise BadRequestError(
                f"The form has no file named {FILE!r}.", code="invalid_form", param=FILE
            )
        return Upload(self._filename, self._fields)

    def _begin_part(self) -> None:
        self._name, self._header, self._value = "", b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._data = bytearray()
        self._is_file = False

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode()
        self._is_file = b"filename" in options
        if not self._is_file:
            return
        if self._name != FILE or self._filename is not None:
            raise FormParserError(f"it may have one file, named {FILE!r}")
        self._filename = options[b"filename"].decode()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._fresh += data[start:end]
            return
        self._data += data[start:end]
        if len(self._data) > LONGEST_FIELD:
            raise FormParserError(f"a field is longer than {LONGEST_FIELD} bytes")

    def _end_part(self) -> None:
        if self._is_file:
            return
        if self._name in self._fields or len(self._fields) >= MOST_FIELDS:
            raise FormParserError(f"it has a field twice, or more than {MOST_FIELDS}")
        self._fields[self._name] = self._data.decode()

    def _end(self) -> None:
        self._whole = True
