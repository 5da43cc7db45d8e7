"""The outermost layer: every request gets an id, a line in the log, and an answer."""

import errno
import re

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galley.core.errors import GalleyError, InternalError, OverloadedError
from galley.core.logging import answering
from galley.db.ids import new_id
from galley.db.session import is_unavailable
from galley.dialects.base import dialect_of
from galley.routers.answers import send_error
from galley.services.charge import Arrival

log = structlog.get_logger(__name__)

_SANE_ID = re.compile(rb"[\w.:@/+=-]{1,128}", re.ASCII)
QUIET = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class RequestMiddleware:
    """Adds `request-id` and `x-request-id`, writes the access log, answers what nobody caught.

    The `Arrival` is left in `scope["arrival"]` for whoever bills the request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _given_id(scope)
        arrival = Arrival(new_id(), given.decode() if given else None)
        scope["arrival"] = arrival
        answering.set(arrival.request_id)
        own_id = arrival.request_id.encode()
        ids = ((b"request-id", own_id), (b"x-request-id", given or own_id))
        status = 0

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *ids]
            await send(message)

        quiet = scope["path"] in QUIET
        if not quiet:
            log.info("request_started", request_id=arrival.request_id, path=scope["path"])
        try:
            await self._app(_as_get(scope), receive, send_with_ids)
        except Exception as failure:
            error = _in_words(failure, arrival.request_id, scope["path"])
            if status:
                raise  # the answer has begun: the connection has to break
            dialect = dialect_of(scope["path"], scope["headers"])
            await send_error(send_with_ids, error, dialect, arrival.request_id)
        finally:
            if not quiet:
                _finish(scope, arrival, status)


def _finish(scope: Scope, arrival: Arrival, status: int) -> None:
    """Count an answer and log it; a status of 0 is none, since its caller hung up before."""
    if status:
        scope["app"].state.runtime.metrics.responses(status).inc()
    log.info(
        "request_finished",
        request_id=arrival.request_id,
        method=scope["method"],
        path=scope["path"],
        status=status,
        ms=round(arrival.elapsed_ms(), 2),
    )


def _in_words(failure: Exception, request_id: str, path: str) -> GalleyError:
    """Log what nobody caught, and say what the caller may know of it."""
    if is_unavailable(failure):
        log.error("database_unavailable", request_id=request_id, path=path, error=str(failure))
        return OverloadedError(
            "The server's database does not answer. Try again in a moment.",
            code="database_unavailable",
            retry_after=1,
        )
    if isinstance(failure, OSError) and failure.errno in _FULL:
        log.error("disk_full", request_id=request_id, path=path, error=str(failure))
        return OverloadedError(
            "The server's disk is full, so nothing was kept. Try again later.",
            code="disk_full",
            retry_after=10,
        )
    log.exception("request_failed", request_id=request_id, path=path)
    return InternalError(
        f"The server failed. Its log has more under {request_id}.", code="internal_error"
    )


def _as_get(scope: Scope) -> Scope:
    """Take HEAD for GET: uvicorn leaves out the body of its answer."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _given_id(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value if _SANE_ID.fullmatch(value) else None
    return None
