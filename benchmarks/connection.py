"""The meters' HTTP client: as little between socket and clock as can be."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


class UnexpectedAnswerError(Exception):
    """A server answered something other than 200."""


class Connection:
    """One keep-alive connection to a server; opened by the first request."""

    def __init__(self, base_url: str, key: str | None = None) -> None:
        url = urlsplit(base_url)
        self._host, self._port = url.hostname or "127.0.0.1", url.port or 80
        self._headers = f"host: {self._host}:{self._port}\r\n"
        if key:
            self._headers += f"authorization: Bearer {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> bytes:
        """Return the body at `path`."""
        return await self._whole(f"GET {path} HTTP/1.1\r\n{self._headers}\r\n".encode())

    async def post(self, path: str, body: bytes, kind: str = "application/json") -> bytes:
        """Return the answer to `body`, which is written out already."""
        return await self._whole(self._request(path, body, kind))

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Yield the server-sent events of an answer, less the last, `[DONE]`."""
        tail = b""
        request = self._request(path, json.dumps(body).encode())
        async with aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                *lines, tail = (tail + piece).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: {"):
                        yield json.loads(line[6:])

    def pieces(self, path: str, body: bytes) -> AsyncGenerator[bytes]:
        """Yield the answer to `body` as it comes, which is JSON already."""
        return self._pieces(self._request(path, body))

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect now rather than with the first request."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=2**20)
        return self._streams

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _request(self, path: str, body: bytes, kind: str = "application/json") -> bytes:
        head = f"POST {path} HTTP/1.1\r\n{self._headers}content-type: {kind}\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def _whole(self, request: bytes) -> bytes:
        return b"".join([piece async for piece in self._pieces(request)])

    async def _pieces(self, request: bytes) -> AsyncGenerator[bytes]:
        reader, writer = await self.open()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if (status := head.split(" ", 2)[1]) not in ("200", "201"):
            raise UnexpectedAnswerError(f"{status}: {(await reader.read(1000)).decode()}")
        if "transfer-encoding: chunked" in head:
            while size := int(await reader.readline(), 16):
                yield await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        else:
            length = head.partition("content-length:")[2].partition("\r\n")[0]
            yield await reader.readexactly(int(length))
        if "connection: close" in head:
            self.close()
