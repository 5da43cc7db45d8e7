"""The load on a gateway: connections that never pause, and that look at the end of every answer.

They share a core with the model server, so they cost as little as can be.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpResponseParser

from benchmarks.servers import Server

PATIENCE_S = 30.0  # whoever has not answered by then is stuck
PAUSE_S = 0.05  # before a new connection, where one broke
_EVENT = b"data: {"
_SAYS_SOMETHING = (b'"content":" ', b'"content": " ')


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how a good answer is known."""

    body: bytes
    ends: bytes
    holds: bytes = b""
    events: int = 0
    status: int = 200

    def is_answered(self, status: int, answer: bytes) -> bool:
        """Whether `answer` is whole, and the right one."""
        return (
            status == self.status
            and answer.rstrip().endswith(self.ends)
            and self.holds in answer
            and answer.count(_EVENT) >= self.events
        )


@dataclass(slots=True)
class Seen:
    """What came of a load; times in seconds, of good answers alone."""

    took_s: list[float] = field(default_factory=list[float])
    first_s: list[float] = field(default_factory=list[float])
    events: int = 0
    errors: int = 0
    traffic: int = 0  # bytes, there and back
    seconds: float = 0.0

    @property
    def answers(self) -> int:
        """How many were good."""
        return len(self.took_s)


async def load(server: Server, question: Question, *, clients: int, seconds: float) -> Seen:
    """Ask over and over, each client at least once; whoever is at it may finish."""
    seen, began = Seen(), time.perf_counter()
    request = _request(server, question.body)
    asking = [
        asyncio.create_task(_ask(server, request, question, began + seconds, seen))
        for _ in range(clients)
    ]
    done, stuck = await asyncio.wait(asking, timeout=seconds + PATIENCE_S)
    seen.seconds = time.perf_counter() - began
    seen.errors += len(stuck)
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    for task in done:
        task.result()
    return seen


async def _ask(server: Server, request: bytes, question: Question, end: float, seen: Seen) -> None:
    loop, url = asyncio.get_running_loop(), urlsplit(server.url)
    while True:
        try:
            _, caller = await loop.create_connection(
                _Caller, url.hostname or "127.0.0.1", url.port or 80
            )
            try:
                await _keep_asking(caller, request, question, end, seen)
            finally:
                caller.close()
        except (OSError, HttpParserError):
            seen.errors += 1
            await asyncio.sleep(PAUSE_S)
        if time.perf_counter() >= end:
            return


async def _keep_asking(
    caller: "_Caller", request: bytes, question: Question, end: float, seen: Seen
) -> None:
    while not caller.closed:
        began = time.perf_counter()
        status, answer = await caller.ask(request)
        now = time.perf_counter()
        if question.is_answered(status, answer):
            seen.took_s.append(now - began)
            seen.first_s.append(caller.first - began)
            seen.events += answer.count(_EVENT)
            seen.traffic += len(request) + caller.received
        else:
            seen.errors += 1
        if now >= end:
            return


class _Caller(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self.first = 0.0  # when the answer began to say something
        self.received = 0  # bytes of the answer, its head included
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._whole: asyncio.Future[None] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the answer's status and body.

        Raises:
            OSError, HttpParserError: it broke off, or is no HTTP.
        """
        self._parts, self.first, self.received = [], 0.0, 0
        self._whole = asyncio.get_running_loop().create_future()
        self._out.write(request)
        await self._whole
        return self._parser.get_status_code(), b"".join(self._parts)

    def close(self) -> None:
        """Hang up."""
        self._out.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fail(exc or ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._fail(error)

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)
        if not self.first and any(words in part for words in _SAYS_SOMETHING):
            self.first = time.perf_counter()

    def on_message_complete(self) -> None:
        self.closed = not self._parser.should_keep_alive()
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(error)


def _request(server: Server, body: bytes) -> bytes:
    headers = {"host": urlsplit(server.url).netloc, "content-type": "application/json"}
    headers |= {"content-length": str(len(body)), **server.headers}
    if server.key:
        headers["authorization"] = f"Bearer {server.key}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body
