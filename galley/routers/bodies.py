"""Bodies as they arrive: not before their sender is known, and within a limit."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope

from galley.core.errors import CancelledError, OverloadedError, RequestTooLargeError
from galley.dialects.base import dialect_of
from galley.routers.deps import admit, guard_of
from galley.routers.parsing import check


class BodyRoom:
    """What the bodies of all requests that run may take together, in bytes.

    A single one always fits, whatever its route allows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def hold(self) -> "Share":
        """Give a request its share, which is free again after the block."""
        return Share(self)

    def take(self, mine: int, size: int) -> None:
        """Take room for `size` bytes more, for who has `mine`.

        Raises:
            OverloadedError: there is none.
        """
        if self._held > mine and self._held + size > self._most:
            raise OverloadedError(
                "The server holds as many large requests as it can. Try again in a moment.",
                code="bodies_full",
                retry_after=1,
            )
        self._held += size

    def free(self, size: int) -> None:
        """Give room back."""
        self._held -= size


class Share:
    """What one request takes of the room, for a block; called with so many bytes, it takes them."""

    __slots__ = ("_mine", "_room")

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self._mine = 0

    def __call__(self, size: int) -> None:
        self._room.take(self._mine, size)
        self._mine += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.free(self._mine)


async def read_body(
    scope: Scope, receive: Receive, limit: int, take: Callable[[int], None]
) -> bytes | bytearray:
    """Read the whole body.

    Raises:
        RequestTooLargeError: it has more than `limit` bytes.
        CancelledError: the caller hung up.
        OverloadedError: `take` has no room for it.
    """
    declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
    size, more = int(declared) if declared.isdigit() else 0, True
    body: bytes | bytearray = b""
    while more and max(size, len(body)) <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("The caller hung up.", code="client_closed_request")
        part = message.get("body", b"")
        take(len(part))
        more = message.get("more_body", False)
        if body or more:
            body = body if isinstance(body, bytearray) else bytearray(body)
            body += part
        else:  # most come in one part, and need no copy
            body = part
    if max(size, len(body)) > limit:
        raise RequestTooLargeError(
            f"The body is larger than {limit} bytes.", code="request_too_large"
        )
    return body  # a copy of 64 MB would hold up everybody


class BodyRoute(APIRoute):
    """An ordinary route that takes bodies as the front door does.

    FastAPI would read them before it asks who sends them, however large they are, and has no
    objection to names that are given twice.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        if self.body_field is None:
            return answer

        async def read_first(request: Request) -> Response:
            if (guard := guard_of(self)) is not None:
                await admit(request, guard)
            room = BodyRoom(limit := request.app.state.runtime.settings.body_limit)
            with room.hold() as take:  # alone: these bodies are small
                body = await read_body(request.scope, request.receive, limit, take)
            if body:
                check(body, dialect_of(request.url.path, request.scope["headers"]))
            return await answer(Request(request.scope, _once(bytes(body), request.receive)))

        return read_first


def _once(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Give `body`, then whatever comes."""
    read = False

    async def again() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
