"""Another server that runs models: one pooled client, whatever API it speaks.

Closing a stream closes its connection, which is how the other side learns to stop.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from yarl import URL

from galley.engines.http_errors import Faults, broken_off
from galley.engines.http_events import EventReader
from galley.engines.http_patience import ENDLESS, Exchange, Patience
from galley.engines.lookout import Lookout

MOST_ANSWER_BYTES = 64 << 20
MOST_REFUSAL_BYTES = 64 << 10
END_S = 0.25  # for the end of a stream to follow its last event
_LARGE_BODY = 1 << 20  # bytes; more than that aiohttp wants to send piece by piece
_STALE = (
    aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError,
)  # fmt: skip
_SHORTEST_SECRET = 6  # characters; a shorter value of a header is a word like any other

_fresh: ContextVar[bool] = ContextVar("fresh")
"""Whether the last request of this task was sent on a new connection."""


class _TcpPool(aiohttp.TCPConnector):
    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's
        _fresh.set(True)
        return await super()._create_connection(req, traces, timeout)


class _UnixPool(aiohttp.UnixConnector):
    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's
        _fresh.set(True)
        return await super()._create_connection(req, traces, timeout)


class Upstream:
    """A client of one server.

    Args:
        url: the base URL of its API; a user and a password in it are sent as such.
        model: the model's name over there, for the log.
        key: the header that opens it, by name.
        headers: what else it wants to be sent.
        socket: of a server on this machine, in place of the host in `url`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: Mapping[str, str],
        headers: Mapping[str, str],
        patience: Patience,
        socket: Path | None = None,
    ) -> None:
        base = URL(url.rstrip("/"))
        self._lookout = None if socket else Lookout(url)  # whose child it is watches over it
        self._patience = patience
        keys = (value.removeprefix("Bearer ") for value in key.values())
        given = [*keys, *headers.values(), base.password or ""]
        hidden = [value for value in given if len(value) >= _SHORTEST_SECRET]
        key = _login(base) | dict(key)
        base = base.with_user(None)
        if not socket:
            hidden += [str(base), base.authority]
        self.faults = Faults(model, hidden)
        self._base = str(base)
        self._urls: dict[str, URL] = {}
        self._session = aiohttp.ClientSession(
            connector=_UnixPool(str(socket), limit=0) if socket else _TcpPool(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "accept-encoding": "identity",
                "user-agent": "galley",
                **{name.lower(): value for name, value in headers.items()},
                "content-type": "application/json",
                **key,
            },
            skip_auto_headers=("accept",),
            timeout=aiohttp.ClientTimeout(total=None, connect=patience.connect),
            auto_decompress=False,
        )

    @property
    def problem(self) -> str | None:
        """What keeps it from answering, as far as is known."""
        return self._lookout.problem if self._lookout else None

    async def look(self) -> None:
        """Find out whether anybody is there; `problem` says so from then on."""
        if self._lookout:
            await self._lookout.look()

    def exchange(self) -> Exchange:
        """Begin to count the time of a request."""
        return Exchange(self._patience)

    async def stream(
        self, path: str, body: Mapping[str, Any], exchange: Exchange
    ) -> AsyncGenerator[list[bytes]]:
        """Send `body` and yield the data of its server-sent events: what came at once, together.

        Raises:
            BadRequestError: the other side does not take this request.
            OverloadedError: nothing answers there, it broke off, or it is busy.
            EngineError: it answered with anything else but a stream of events.
            EngineTimeoutError: the first token or the next event did not come in time.
        """
        try:
            response = await self._send(path, body, exchange)
            try:
                await self._check(response, exchange, "text/event-stream")
                reader, size = EventReader(), 0
                while part := await exchange.more(response.content):
                    size += len(part)
                    if events := self._read(reader, part, size):
                        exchange.rest()
                        yield events
                if events := reader.end():
                    yield events
            finally:
                exchange.close()
                await _leave(response, exchange)
        except (aiohttp.ClientError, OSError) as error:
            raise self._silence(error) from error

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Post `body` (or get, without one) and return the answer's JSON.

        Raises:
            BadRequestError, EngineError, OverloadedError, EngineTimeoutError: as `stream`.
        """
        return await self._ask(path, body, self.exchange())

    async def whole(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The same for an answer that comes at its end: it may take as long as the request may."""
        return await self._ask(path, body, Exchange(ENDLESS))

    async def _ask(
        self, path: str, body: Mapping[str, Any] | None, exchange: Exchange
    ) -> dict[str, Any]:
        try:
            response = await self._send(path, body, exchange)
            try:
                await self._check(response, exchange)
                exchange.begun = True
                answer = await _whole(response, exchange, MOST_ANSWER_BYTES)
            finally:
                exchange.close()
                response.close()
        except (aiohttp.ClientError, OSError) as error:
            raise self._silence(error) from error
        if len(answer) > MOST_ANSWER_BYTES:
            raise self.faults.failure("its answer has no end")
        return self.read_object(answer)

    def read_object(self, data: bytes) -> dict[str, Any]:
        """Read a JSON object.

        Raises:
            EngineError: it is none.
        """
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise self.faults.failure("it sent no JSON") from error
        if not isinstance(found, dict):
            raise self.faults.failure("it sent no JSON object")
        return found

    async def aclose(self) -> None:
        """Close every connection."""
        if self._lookout:
            await self._lookout.aclose()
        await self._session.close()

    def _read(self, reader: EventReader, part: bytes, size: int) -> list[bytes]:
        if size > MOST_ANSWER_BYTES:
            raise self.faults.failure("its answer has no end")
        try:
            return reader.feed(part)
        except ValueError as error:
            raise self.faults.failure(f"it sent {error}") from error

    async def _check(
        self, response: aiohttp.ClientResponse, exchange: Exchange, kind: str | None = None
    ) -> None:
        """Refuse any answer but a good one of `kind`."""
        headers = response.headers
        if response.status != 200:
            answer = await _whole(response, exchange, MOST_REFUSAL_BYTES)
            raise self.faults.refusal(response.status, answer, headers.get("retry-after"))
        if headers.get("content-encoding", "identity") != "identity":
            raise self.faults.failure("it sent an encoding that it was not asked for")
        if kind is not None and not headers.get("content-type", "").lower().startswith(kind):
            raise self.faults.failure(f"it sent no {kind}")

    async def _send(
        self, path: str, body: Mapping[str, Any] | None, exchange: Exchange
    ) -> aiohttp.ClientResponse:
        data = b"" if body is None else orjson.dumps(body)
        url, method = self._url(path), "GET" if body is None else "POST"
        due = exchange.first_due
        async with asyncio.timeout_at(due if due < inf else None):
            while not self._session.closed:
                _fresh.set(False)
                sent = BytesIO(data) if len(data) > _LARGE_BODY else data or None
                try:
                    return await self._session.request(
                        method, url, data=sent, allow_redirects=False
                    )
                except _STALE:
                    # A connection that idled may be dead on reuse; nothing was answered on it.
                    if _fresh.get() or self._session.closed:
                        raise
        raise broken_off()

    def _url(self, path: str) -> URL:
        if (url := self._urls.get(path)) is None:  # there are few, and parsing takes its time
            url = self._urls[path] = URL(self._base + path)
        return url

    def _silence(self, error: aiohttp.ClientError | OSError) -> Exception:
        unreached = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
        if self._lookout and isinstance(error, unreached):
            self._lookout.missed()
        return self.faults.silence(error)


async def _whole(response: aiohttp.ClientResponse, exchange: Exchange, most: int) -> bytes:
    """Read an answer to its end, or to where it is longer than `most`: all of it is due at once."""
    parts: list[bytes] = []
    size = 0
    while size <= most and (part := await exchange.more(response.content)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


async def _leave(response: aiohttp.ClientResponse, exchange: Exchange) -> None:
    """Hang up, unless the end that follows the last event comes: then the connection stays."""
    try:
        if exchange.ended and not response.content.is_eof():
            with suppress(aiohttp.ClientError, OSError):
                async with asyncio.timeout(END_S):
                    while await response.content.readany():
                        pass
    finally:
        response.close()


def _login(url: URL) -> dict[str, str]:
    if url.user is None:
        return {}
    pair = f"{url.user}:{url.password or ''}".encode()
    return {"authorization": f"Basic {b64encode(pair).decode()}"}
