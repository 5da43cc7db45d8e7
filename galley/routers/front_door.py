"""The inference routes: plain ASGI, ahead of FastAPI's own routing.

The road is the same for all of them: key, row in the ledger, body, one service, settlement,
answer. Routes are declared in FastAPI for the OpenAPI document (`openapi.py`) and answered here,
because dependency chains and response models cost more than the rest of the road.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from galley.core.caching import CacheControl
from galley.core.caller import Caller
from galley.core.errors import CancelledError, GalleyError
from galley.dialects.base import Dialect, Headers
from galley.routers.answers import send_error, send_json
from galley.routers.bodies import BodyRoom, read_body
from galley.routers.deps import credentials, permit
from galley.routers.hangup import Listening
from galley.routers.parsing import parse, refuse_form
from galley.routers.sse import Comments
from galley.routers.turns import Turns
from galley.runtime import Runtime
from galley.schemas.base import Request
from galley.schemas.delta import Delta, Usage
from galley.services.charge import Arrival, Charge

R = TypeVar("R", bound=Request)

MOST_BODY_BYTES = 256_000_000  # of all requests together
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Frames(Protocol):
    """How a dialect writes a stream."""

    def frame(self, delta: Delta) -> bytes:
        """Write what `delta` brought; empty when that is nothing."""
        ...

    def last(self, usage: Usage) -> bytes:
        """Write the end of the stream."""
        ...


class Call:
    """One request on its way through an endpoint."""

    __slots__ = (
        "_listening", "_received", "_send",
        "arrival", "body", "charge", "dialect", "query", "runtime", "streaming",
    )  # fmt: skip

    def __init__(
        self,
        runtime: Runtime,
        charge: Charge,
        dialect: Dialect,
        body: bytes | bytearray,
        scope: Scope,
        send: Send,
        listening: Listening,
    ) -> None:
        self.runtime = runtime
        self.charge = charge
        self.dialect = dialect
        self.body = body
        self.query: bytes = scope["query_string"]
        self.arrival: Arrival = scope["arrival"]
        self.streaming = False
        self._received = dict(reversed(scope["headers"]))  # of several, the first
        self._listening = listening
        self._send = send
        if wishes := self.header(b"cache-control"):
            charge.cache_control = CacheControl.parse(wishes)

    async def parse(self, shape: type[R]) -> R:
        """Validate the body as `shape`; see `parsing.parse`."""
        if self.sends_form:
            refuse_form(self.dialect)
        return await parse(shape, self.body, self.dialect, self.runtime.heavy)

    def header(self, name: bytes) -> str:
        """Return the request's header `name` (lower case), or an empty text."""
        return self._received.get(name, b"").decode("latin-1")

    @property
    def sends_form(self) -> bool:
        """Whether the body is a multipart form, as files are sent."""
        return self.header(b"content-type").lower().startswith("multipart/form-data")

    @property
    def served_model(self) -> str:
        """The model that answers, once the service has chosen it."""
        return self.charge.record.served_model or ""

    async def answer(self, body: bytes) -> None:
        """Settle, then send a whole answer."""
        await self._settle()
        await send_json(self._send, body, headers=self._headers())

    async def stream(
        self, answer: AsyncGenerator[list[Delta]], frames: Callable[[str], Frames]
    ) -> None:
        """Send the pieces of `answer` as they come, settle, then send the end of the stream.

        Nothing leaves before the first piece, so that a refusal is a 4xx and not a broken 200;
        a caller who has waited for `PATIENCE` seconds gets comments from then on.

        Args:
            frames: makes the frames, given the name of the model that answers.
        """
        waiting = Comments(self.send, self.charge.stands)
        made: Frames | None = None
        try:
            async with aclosing(answer):
                async for pieces in answer:
                    made = made or frames(self.served_model)
                    data = b"".join(map(made.frame, pieces))
                    if data:
                        waiting.stop()
                        await self.send(data)
        finally:
            waiting.stop()
        await self._settle()
        made = made or frames(self.served_model)
        await self.send(made.last(self.charge.usage), more=False)

    async def _settle(self) -> None:
        """Book what is done; from here on neither the clock nor a hang-up undoes it."""
        self._listening.stop()
        await self.runtime.meter.settle(self.charge)

    async def send(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of a stream, after its headers."""
        if not self.streaming:
            self.streaming = True
            headers = [*_STREAM_HEADERS, *self._headers()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def refuse(self, error: GalleyError) -> None:
        """Say that it failed: as an answer, or as the last event of a stream."""
        if isinstance(error, CancelledError):
            return  # nobody is there
        if self.streaming:
            told = self.dialect.error_event(error, self.arrival.request_id)
            await self.send(told, more=False)
        else:
            request_id, headers = self.arrival.request_id, self._limits()
            await send_error(self._send, error, self.dialect, request_id, headers)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        """Say of an answer how long it took, how limits stand, and what was made of images."""
        timing = (b"server-timing", b"app;dur=%.1f" % self.arrival.elapsed_ms())
        if cache := self.charge.record.cache:
            return [timing, (b"galley-cache", cache.encode()), *self._limits()]
        if self.charge.image_input is None:
            return [timing, *self._limits()]
        return [timing, (b"galley-image-input", self.charge.image_input.encode()), *self._limits()]

    def _limits(self) -> Headers:
        return self.dialect.limit_headers(self.charge.headers, datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An inference route.

    Args:
        name: in the ledger and in metrics.
        scope: what a caller must be allowed to do.
        paths: where it is served; the first is the one in the document.
        handle: parses, calls one service, answers.
        body_limit: the largest body in bytes, read from the settings by this name.
        method: GET for what is asked in the query.
    """

    name: str
    scope: str
    paths: tuple[str, ...]
    dialect: Dialect
    handle: Callable[[Call], Awaitable[None]]
    request: type[Request]
    reply: type
    example: dict[str, Any]
    body_limit: str = "body_limit"
    method: Literal["GET", "POST"] = "POST"


class FrontDoor:
    """Answers the endpoints' requests and passes everything else on."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._endpoints = endpoints
        self._room = BodyRoom(MOST_BODY_BYTES)
        self._turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        scope["bodies"] = self._room  # for those behind that take large ones
        if endpoint is None:
            await self._app(scope, receive, send)
        elif scope["method"] == endpoint.method:
            await self._serve(endpoint, scope, receive, send)
        else:  # FastAPI knows the declared path alone, and what to say of other methods
            await self._app({**scope, "path": endpoint.paths[0]}, receive, send)

    async def _serve(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        runtime: Runtime = scope["app"].state.runtime
        call: Call | None = None
        await self._turns.mine()
        try:
            if runtime.meter.traces:
                scope["arrival"].traceparent = _header(scope, b"traceparent")
            caller = await self._caller(runtime, scope)
            async with runtime.meter.hold(scope["arrival"], caller, endpoint.name) as charge:
                permit(caller, endpoint.scope)
                runtime.shedding.admit(caller)
                limit = getattr(runtime.settings, endpoint.body_limit)
                with self._room.hold() as take:
                    body = await read_body(scope, receive, limit, take)
                    with Listening(receive, runtime.settings.request_timeout) as listening:
                        call = Call(runtime, charge, endpoint.dialect, body, scope, send, listening)
                        await endpoint.handle(call)
        except GalleyError as error:
            if call is not None:
                await call.refuse(error)
            else:
                await send_error(send, error, endpoint.dialect, scope["arrival"].request_id)

    async def _caller(self, runtime: Runtime, scope: Scope) -> Caller:
        key = credentials(scope)
        return runtime.accounts.cached(key) or await runtime.accounts.authenticate(key)


def _header(scope: Scope, name: bytes) -> str | None:
    found = (value for header, value in scope["headers"] if header == name)
    return next((value.decode("latin-1") for value in found), None)
