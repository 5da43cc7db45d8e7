"""HTTP on the wire: uvicorn's protocol, with a watch on slow, idle, silent and too many peers.

ASGI sees nothing of a request before its headers are complete, so a client that never completes
them can only be cut here. One sweep a second looks at every open connection; a request pays for
a time stamp and no timer of its own.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any, ClassVar

import orjson
from uuid_utils import uuid7
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from galley.core.settings import Settings
from galley.routers.corked import CorkedTransport

MAX_HEADER_BYTES = 65_536
MAX_PIPELINED = 16
LONGEST_SWEEP_PAUSE_S = 1.0
MAX_KERNEL_BACKLOG = 131_072
SLOWEST_BODY = 500  # bytes a second; what is slower counts as pausing


def make_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """Make the protocol class of one server: hand it to `uvicorn.Config(http=...)`.

    The timeouts and the cap on connections are those of `settings`; a client that takes nothing
    of its answer is cut after `keep_alive_timeout`, too.
    """

    class Protocol(WatchedProtocol):
        watch = _Watch(settings)

    return Protocol


class _Awaited(Enum):
    """What the client owes us."""

    NOTHING = auto()
    HEADERS = auto()
    BODY = auto()


class _HeadersTooLargeError(Exception):
    """Stops the parser."""


class _Watch:
    """Looks at a server's connections once a second, for as long as there are any."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        shortest = min(settings.header_timeout, settings.body_timeout, settings.keep_alive_timeout)
        self._pause = min(LONGEST_SWEEP_PAUSE_S, shortest / 4)
        self._running = False

    def keep_up(self, connections: Iterable[object], loop: asyncio.AbstractEventLoop) -> None:
        """Start looking at `connections`, unless that goes on already."""
        if not self._running:
            self._running = True
            loop.call_later(self._pause, self._sweep, connections, loop)

    def _sweep(self, connections: Iterable[object], loop: asyncio.AbstractEventLoop) -> None:
        self._running = False
        now = loop.time()
        for connection in list(connections):
            if isinstance(connection, WatchedProtocol):
                connection.look(now)
                self.keep_up(connections, loop)


class WatchedProtocol(HttpToolsProtocol):
    """One connection; `make_protocol` makes the class that a server's are of."""

    watch: ClassVar[_Watch]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self.watch.settings
        self._header_timeout = settings.header_timeout
        self._body_timeout = settings.body_timeout
        self._stall_timeout = settings.keep_alive_timeout
        # uvicorn declares whole seconds and hands them to `call_later`, which takes parts too.
        self.timeout_keep_alive = settings.keep_alive_timeout
        self._awaited = _Awaited.HEADERS
        self._since = self.loop.time()
        self._overhead = 0  # bytes since the last part of a message that we could use
        self._unsent = 0
        self._unsent_since = self._since

    # What the transport says

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(CorkedTransport(transport, self.loop))
        self.watch.keep_up(self.connections, self.loop)
        self._bound_kernel_backlog()
        most = self.watch.settings.max_connections
        if len(self.connections) > most:
            self._refuse(
                503, f"The server has all of its {most} connections in use; try again shortly."
            )

    def data_received(self, data: bytes) -> None:
        if self._awaited is _Awaited.NOTHING:
            self._awaited, self._since = _Awaited.HEADERS, self.loop.time()
        elif self._awaited is _Awaited.BODY and not self._is_leftover():
            # Each byte buys a little time: who sends one now and then runs out of it.
            self._since = min(self.loop.time(), self._since + len(data) / SLOWEST_BODY)
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > MAX_HEADER_BYTES:
            self._refuse_large_headers()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent_since = self.loop.time()

    def _bound_kernel_backlog(self) -> None:
        # Linux would buffer megabytes for a client that does not read, and say so only when a
        # third of them is gone: too coarse to tell a slow reader from one that reads nothing.
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_KERNEL_BACKLOG)

    # What the server says

    def drain(self, linger_s: float) -> None:
        """Let go of the client as soon as nothing of theirs can be lost.

        That is after the answer they wait for, or when they have asked nothing for `linger_s`:
        a connection that is closed while idle may swallow a request that is on its way, and nobody
        could tell whether it was taken.
        """
        self.timeout_keep_alive = linger_s
        cycle = self._current
        if cycle is None or cycle.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                linger_s, self.timeout_keep_alive_handler
            )
        elif not cycle.response_started:
            cycle.keep_alive = False

    # What the parser says

    def on_headers_complete(self) -> None:
        # Only headers that could be too large are counted out.
        if self._overhead > MAX_HEADER_BYTES and self._header_bytes() > MAX_HEADER_BYTES:
            self._refuse_large_headers()
            raise _HeadersTooLargeError
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ConnectionAbortedError("too many requests wait for their turn")
        super().on_headers_complete()
        self._awaited, self._overhead, self._since = _Awaited.BODY, 0, self.loop.time()

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._awaited, self._overhead = _Awaited.NOTHING, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Say no to bytes that are not HTTP; uvicorn calls it for whatever stops the parser."""
        self._refuse(400, msg)

    # What the clock says

    def look(self, now: float) -> None:
        """Cut the connection if its client has kept us waiting for too long."""
        if self._is_stalled(now):
            self.logger.info("Cut a client that reads nothing.")
            self.transport.abort()
        elif self._awaited is _Awaited.HEADERS:
            if now - self._since > self._header_timeout and not self._is_answering():
                self._refuse(408, "The request's headers took too long.")
        elif self._awaited is _Awaited.BODY:
            if self._keeps_client_waiting():
                self._since = now
            elif now - self._since > self._body_timeout:
                self._refuse(408, "The request's body stopped arriving.")

    def _is_stalled(self, now: float) -> bool:
        waiting = self.transport.get_write_buffer_size()
        if not waiting or waiting < self._unsent:
            self._unsent_since = now
        self._unsent = waiting
        return now - self._unsent_since > self._stall_timeout

    def _keeps_client_waiting(self) -> bool:
        cycle = self._current
        return self.flow.read_paused or (cycle is not None and cycle.waiting_for_100_continue)

    def _is_answering(self) -> bool:
        cycle = self._current
        return cycle is not None and not cycle.response_complete

    def _is_leftover(self) -> bool:
        # The rest of a body whose request is answered has as long as any pause in it, in all.
        cycle = self._current
        return self._awaited is _Awaited.BODY and cycle is not None and cycle.response_complete

    @property
    def _current(self) -> RequestResponseCycle | None:
        # uvicorn says that `cycle` is never None, and starts with None.
        return self.cycle

    def _header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    # How we say no

    def _refuse_large_headers(self) -> None:
        self._refuse(431, f"The request's headers are larger than {MAX_HEADER_BYTES} bytes.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer `status`, if nothing else is on its way to the client, and hang up."""
        if self.transport.is_closing():
            return
        # A full server is the operator's business, bad clients are not.
        level = logging.WARNING if status == 503 else logging.INFO
        self.logger.log(level, "Refused a connection: %d %s", status, message)
        if self._may_answer():
            self.transport.write(self._refusal(status, message))
        self.transport.close()

    def _may_answer(self) -> bool:
        cycle = self._current
        if self._awaited is _Awaited.BODY and cycle is not None:
            return not (cycle.response_started or self.pipeline)
        return not self._is_answering()

    def _refusal(self, status: int, message: str) -> bytes:
        body = orjson.dumps({"detail": message})
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"request-id", str(uuid7()).encode()),
            (b"connection", b"close"),
        ]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        return b"".join([STATUS_LINE[status], *lines, b"\r\n", body])
