"""Plain answers as ASGI messages, errors in the words of their route among them."""

from collections.abc import Iterable
from math import ceil

import orjson
from starlette.types import Send

from galley.core.errors import ConflictError, GalleyError, RateLimitError
from galley.dialects.base import Dialect

Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")


async def send_json(send: Send, body: bytes, *, status: int = 200, headers: Headers = ()) -> None:
    """Send a whole answer."""
    length = (b"content-length", b"%d" % len(body))
    start = {"status": status, "headers": [JSON, length, *headers]}
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send, error: GalleyError, dialect: Dialect, request_id: str, headers: Headers = ()
) -> None:
    """Send `error` as a whole answer."""
    body = orjson.dumps(dialect.error_body(error, request_id))
    await send_json(send, body, status=error.status, headers=[*error_headers(error), *headers])


def error_headers(error: GalleyError) -> list[tuple[bytes, bytes]]:
    """Return what an error says in its headers."""
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after))))
    is_in_vain = isinstance(error, RateLimitError) and not error.should_retry
    if is_in_vain or isinstance(error, ConflictError):  # SDKs try it again unless they are told
        headers.append((b"x-should-retry", b"false"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 413:  # the rest of the body is not read
        headers.append((b"connection", b"close"))
    return headers
