"""HTTP/1.1 to one server over kept connections: only what a model's server needs.

No TLS, no proxies, no redirects, no compression. A request costs a tenth of a millisecond less than
by a client that has them.
"""

import asyncio
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import cast

import httptools
from yarl import URL

from galley.core.tracing import passed_on
from galley.engines.http_client import NotHttpError, UnreachableError
from galley.engines.http_patience import Exchange

KEPT_S = 15.0
"""How long a connection is kept that nobody needs; many servers close theirs after 20 s or more."""
MOST_HEAD_BYTES = 64 << 10
MOST_AHEAD_BYTES = 256 << 10
"""Of a body that nobody reads; then the server is slowed down, and not our memory filled."""


class _Answer:
    """One answer, as llhttp reads it from the connection."""

    __slots__ = (
        "_ahead", "_complete", "_connection", "_error", "_head_bytes", "_headers", "_keep",
        "_parser", "_parts", "_paused", "_until_close", "_waiter",
        "heard", "status",
    )  # fmt: skip

    def __init__(self, connection: "_Connection") -> None:
        self.status = 0
        self.heard = False
        self._connection = connection
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._parts: list[bytes] = []
        self._ahead = 0
        self._paused = False
        self._complete = False
        self._keep = False
        self._until_close = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the reader says

    def header(self, name: str) -> str | None:
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def head(self) -> None:
        """Wait for status and headers; raises as `Client.request`."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._more()

    async def readany(self) -> bytes:
        while not self._parts:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._more()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._ahead = 0
        if self._paused:
            self._paused = False
            self._connection.resume_reading()
        return data

    def is_eof(self) -> bool:
        return self._complete and not self._parts

    def set_exception(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._wake()

    def close(self) -> None:
        self._connection.release(keep=self._keep and self._error is None and self.is_eof())

    async def _more(self) -> None:
        self._waiter = self._connection.loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the connection says

    def feed(self, data: bytes) -> None:
        """Read what came."""
        self.heard = True
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.set_exception(NotHttpError(str(error)))
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self.set_exception(NotHttpError("its headers have no end"))

    def lost(self, error: Exception | None) -> None:
        """The connection is gone: the end of a body that has no other."""
        if self._until_close and self._error is None and error is None:
            self._complete = True
            self._wake()
        elif not self._complete:
            self.set_exception(ConnectionResetError("it broke off"))

    # What llhttp says

    def on_message_begin(self) -> None:
        if self._complete:  # nobody asked for more
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # trailers are not wanted
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._complete:
            return
        if status < 200:  # what is meant for us comes after it
            self._headers.clear()
            return
        self.status = status
        coding = self._headers.get(b"transfer-encoding", b"").lower()
        self._until_close = not (
            b"content-length" in self._headers
            or coding.endswith(b"chunked")
            or status in (204, 304)
        )
        self._head_bytes = 0
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        self._parts.append(body)
        self._ahead += len(body)
        self._head_bytes = 0
        if self._ahead > MOST_AHEAD_BYTES and not self._paused:
            self._paused = True
            self._connection.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self.status and not self._complete:
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # only in here does it know
            self._wake()


class _Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, pool: "Pool") -> None:
        self.loop = asyncio.get_running_loop()
        self.idle_since = 0.0
        self._pool = pool
        self._answer: _Answer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if self._answer is not None:
            self._answer.lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer.feed(data)
        else:  # nobody asked
            self.abort()

    def ask(self, request: bytes) -> _Answer:
        """Send a request; its answer is to come."""
        self._answer = _Answer(self)
        if self._transport.is_closing():  # it was lost before anybody asked
            self._answer.lost(None)
        else:
            # At the end of this turn of the loop, with those of other requests: the first wakes
            # the server, and that costs as much as all the rest.
            self.loop.call_soon(self._write, request)
        return self._answer

    def _write(self, request: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(request)

    def release(self, *, keep: bool) -> None:
        """Be done with an answer."""
        if self._answer is not None:
            self._answer = None
            unsent = self._transport.get_write_buffer_size()  # answered before it was read
            if keep and not unsent and not self._transport.is_closing():
                self._pool.keep(self)
            else:
                self.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Hang up."""
        self._transport.abort()


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def _host(base: URL) -> str:
    """Write the Host header; names of other alphabets go as they are resolved."""
    host = base.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    return host if base.is_default_port() else f"{host}:{base.port}"


class Pool:
    """Connections to one server, or to its socket on this machine in place of the host in `base`.

    Args:
        base: its base URL.
        headers: sent with every request.
        connect_s: the longest wait for a connection.
    Raises:
        ValueError: a header has a line break.
    """

    def __init__(
        self, base: URL, headers: Mapping[str, str], *, connect_s: float, socket: Path | None = None
    ) -> None:
        self.closed = False
        self.connections: set[_Connection] = set()
        self._host, self._port, self._socket = base.raw_host or "", base.port or 80, socket
        self._connect_s = connect_s
        lines = {"host": _host(base), **headers}
        if any(mark in text for pair in lines.items() for text in pair for mark in "\r\n\0"):
            raise ValueError("a header has a line break")
        self._head = _lines(lines)
        self._path = base.raw_path.rstrip("/")
        self._idle: list[_Connection] = []
        self._sweep: asyncio.TimerHandle | None = None

    async def request(self, method: str, path: str, body: bytes, exchange: Exchange) -> _Answer:
        line = f"{method} {self._path}{path} HTTP/1.1\r\n".encode("ascii")
        length = b"content-length: %d\r\n\r\n" % len(body)
        told = _lines(headers) if (headers := passed_on()) else b""
        request = b"".join((line, self._head, told, length, body))
        while not self.closed:
            connection = self._idle.pop() if self._idle else None
            fresh = connection is None
            answer = (connection or await self._connect(exchange)).ask(request)
            try:
                exchange.expect(answer)
                await answer.head()
            except BaseException as error:
                answer.close()
                if fresh or answer.heard or not isinstance(error, ConnectionError):
                    raise
            else:
                return answer
        raise ConnectionAbortedError("the client was closed")

    async def aclose(self) -> None:
        self.closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections):
            connection.abort()

    def keep(self, connection: _Connection) -> None:
        """Have a connection wait for the next request."""
        if self.closed:
            connection.abort()
            return
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(KEPT_S, self._close_old)

    def forget(self, connection: _Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self, exchange: Exchange) -> _Connection:
        loop = asyncio.get_running_loop()
        wait = min(self._connect_s, exchange.first_due - loop.time())
        try:
            async with asyncio.timeout(wait if wait < inf else None):
                if self._socket is not None:
                    made = loop.create_unix_connection(lambda: _Connection(self), str(self._socket))
                else:
                    made = loop.create_connection(lambda: _Connection(self), self._host, self._port)
                _, connection = await made
        except (OSError, UnicodeError) as error:  # a timeout, or a name that is none
            raise UnreachableError(str(error)) from error
        if self.closed:
            connection.abort()
            raise ConnectionAbortedError("the client was closed")
        self.connections.add(connection)  # uvloop tells nobody of the end of one given up before
        return connection

    def _close_old(self) -> None:
        self._sweep = None
        now = asyncio.get_running_loop().time()
        old = [c for c in self._idle if now - c.idle_since >= KEPT_S]
        for connection in old:
            connection.abort()
        self._idle = [c for c in self._idle if c not in old]
        if self._idle:
            due = self._idle[0].idle_since + KEPT_S
            self._sweep = asyncio.get_running_loop().call_at(due, self._close_old)
