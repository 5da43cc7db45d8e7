"""HTTP over TLS, by aiohttp."""

import asyncio
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from io import BytesIO
from math import inf
from typing import Any

import aiohttp
from yarl import URL

from galley.core.tracing import passed_on
from galley.engines.http_client import NotHttpError, UnreachableError
from galley.engines.http_patience import Exchange

_LARGE_BODY = 1 << 20  # bytes; more than that aiohttp wants to send piece by piece
_STALE = (
    aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError,
)  # fmt: skip

_fresh: ContextVar[bool] = ContextVar("fresh")
"""Whether the last request of this task was sent on a new connection."""


class _TcpPool(aiohttp.TCPConnector):
    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's
        _fresh.set(True)
        return await super()._create_connection(req, traces, timeout)


class _TlsAnswer:
    """An answer of aiohttp's, with the errors that `http_client.Answer` has."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    async def readany(self) -> bytes:
        try:
            return await self._response.content.readany()
        except aiohttp.ClientError as error:
            raise _in_our_words(error) from error

    def is_eof(self) -> bool:
        return self._response.content.at_eof()

    def set_exception(self, error: Exception) -> None:
        self._response.content.set_exception(error)

    def close(self) -> None:
        connection = self._response.connection  # none once the body was read to its end
        if connection is not None and connection.protocol is not None:
            connection.protocol.abort()  # a polite end of TLS waits for the server's
        self._response.close()


class TlsClient:
    """Connections to one server; the arguments are those of `http_pool.Pool`."""

    def __init__(self, base: URL, headers: Mapping[str, str], *, connect_s: float) -> None:
        self._base = str(base)
        self._urls: dict[str, URL] = {}
        self._session = aiohttp.ClientSession(
            connector=_TcpPool(limit=0, ssl=ssl.create_default_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            skip_auto_headers=("accept",),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            auto_decompress=False,
        )

    @property
    def closed(self) -> bool:
        return self._session.closed

    async def request(self, method: str, path: str, body: bytes, exchange: Exchange) -> _TlsAnswer:
        if (url := self._urls.get(path)) is None:  # there are few, and parsing takes its time
            url = self._urls[path] = URL(self._base + path)
        due = exchange.first_due
        try:
            async with asyncio.timeout_at(due if due < inf else None):
                while not self._session.closed:
                    _fresh.set(False)
                    sent = BytesIO(body) if len(body) > _LARGE_BODY else body or None
                    try:
                        return _TlsAnswer(
                            await self._session.request(
                                method, url, data=sent, headers=passed_on(), allow_redirects=False
                            )
                        )
                    except _STALE:
                        # A connection that idled may be dead on reuse; nothing was answered on it.
                        if _fresh.get() or self._session.closed:
                            raise
        except aiohttp.ClientError as error:
            raise _in_our_words(error) from error
        except UnicodeError as error:  # a name that is none
            raise UnreachableError(str(error)) from error
        raise ConnectionAbortedError("the client was closed")

    async def aclose(self) -> None:
        await self._session.close()


def _in_our_words(error: aiohttp.ClientError) -> OSError:
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return UnreachableError(type(error).__name__)
    if isinstance(error, TimeoutError):
        return TimeoutError("nothing came in time")
    if isinstance(error, aiohttp.ClientResponseError):
        return NotHttpError(error.message)
    return ConnectionResetError(str(error))
