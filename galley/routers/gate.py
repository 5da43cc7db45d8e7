"""Turns requests away before anything is done for them: while the server stops, or is too full."""

from starlette.types import ASGIApp, Receive, Scope, Send

from galley.core.errors import OverloadedError
from galley.dialects.base import dialect_of
from galley.routers.answers import send_error
from galley.routers.middleware import QUIET
from galley.runtime import Runtime

_UNKNOWN = 1 << 62  # bytes; what says nothing of its size may have any
# nginx sends this where it can ask another server, and knows what to do with the answer
# (deploy/nginx.conf). What was turned away here was not begun, so it may be sent again.
_ASKS_OTHERS = (b"galley-next", b"1")
_ASK_OTHERS = (b"x-accel-redirect", b"@galley_next")


class Gate:
    """A layer that refuses what `Shedding` refuses; probes always pass."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in QUIET:
            runtime: Runtime = scope["app"].state.runtime
            shedding = runtime.shedding
            if shedding.stopping or shedding.short_of_memory:
                try:
                    shedding.look_at(_size(scope))
                except OverloadedError as error:
                    await _turn_away(error, scope, receive, send, hang_up=shedding.stopping)
                    return
        await self._app(scope, receive, send)


async def _turn_away(
    error: OverloadedError, scope: Scope, receive: Receive, send: Send, *, hang_up: bool
) -> None:
    headers: list[tuple[bytes, bytes]] = []
    if _ASKS_OTHERS in scope["headers"]:
        headers.append(_ASK_OTHERS)
    if hang_up:
        headers.append((b"connection", b"close"))
        # To hang up on a body that still arrives would take the answer with it.
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
    dialect = dialect_of(scope["path"], scope["headers"])
    await send_error(send, error, dialect, scope["arrival"].request_id, headers)


def _size(scope: Scope) -> int:
    """Return how large the body is to be, in bytes."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else _UNKNOWN
        if name == b"transfer-encoding":
            return _UNKNOWN
    return 0
