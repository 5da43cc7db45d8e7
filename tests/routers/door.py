"""A server with our protocol and a trivial app, and clients that speak in bytes."""

import asyncio

import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

PIECE = b"x" * 65_536


class App:
    """Answers with the size of the body; `/endless` streams until the client is gone."""

    def __init__(self) -> None:
        self.sent = 0
        self.wait_s = 0.0
        self.reads = True
        self.disconnected = asyncio.Event()

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/endless":
            await self._stream(receive, send)
            return
        await asyncio.sleep(self.wait_s)
        size, more = 0, self.reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            assert message["type"] == "http.request"
            size, more = size + len(message["body"]), message["more_body"]
        await self._start(send, [(b"content-length", b"%d" % len(b"%d" % size))])
        await send({"type": "http.response.body", "body": b"%d" % size, "more_body": False})

    async def _stream(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await self._start(send, [])
        gone = asyncio.create_task(self._wait_for_disconnect(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.sent += len(PIECE)
            await asyncio.sleep(0)

    async def _wait_for_disconnect(self, receive: ASGIReceiveCallable) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnected.set()

    @staticmethod
    async def _start(send: ASGISendCallable, headers: list[tuple[bytes, bytes]]) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": headers, "trailers": False}
        )


class Peer:
    """One connection to the server, in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next whole answer: status, headers, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status_line.split()[1]), headers, body

    async def closed(self) -> bytes:
        """What still arrives before the server hangs up."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


class Door:
    """A running server and whoever knocks."""

    def __init__(self, app: App, server: uvicorn.Server, port: int) -> None:
        self.app = app
        self.server = server
        self.port = port
        self._peers: list[Peer] = []

    async def knock(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self._peers.append(peer)
        return peer

    def leave(self) -> None:
        for peer in self._peers:
            peer.writer.close()
