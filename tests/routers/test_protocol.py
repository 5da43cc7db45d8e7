"""Slow, idle, silent and too many peers, over real sockets."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from galley.core.settings import Settings
from galley.routers.protocol import MAX_HEADER_BYTES, make_protocol
from tests.routers.door import PIECE, App, Door

pytestmark = pytest.mark.anyio

GOOD = b"POST / HTTP/1.1\r\nhost: galley\r\ncontent-length: 5\r\n\r\nhello"
LONG = b"POST / HTTP/1.1\r\nhost: galley\r\ncontent-length: 5000\r\n\r\n"


Open = Callable[..., AbstractAsyncContextManager[Door]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}  # as `galley serve` runs


@pytest.fixture
def serve(tmp_path: Path) -> Open:
    @asynccontextmanager
    async def run(**settings: Any) -> AsyncGenerator[Door]:
        protocol = make_protocol(Settings(data_dir=tmp_path, **settings))
        app = App()
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        door = Door(app, server, listener.getsockname()[1])
        try:
            yield door
        finally:
            door.leave()
            server.should_exit = True
            await running

    return run


async def test_good_requests_share_a_connection(serve: Open) -> None:
    async with serve() as door:
        peer = await door.knock()

        answers: list[tuple[int, bytes]] = []
        for _ in range(3):
            await peer.send(GOOD)
            status, _, body = await peer.answer()
            answers.append((status, body))

    assert answers == [(200, b"5")] * 3


@pytest.mark.parametrize(
    "start",
    [b"", b"POST / HTT", b"POST / HTTP/1.1\r\nhost: galley\r\nx-a: ", b"\r\n", GOOD + b"POST /"],
    ids=["nothing", "part of a line", "part of a header", "empty line", "after a request"],
)
async def test_headers_that_do_not_come_are_refused_in_time(serve: Open, start: bytes) -> None:
    async with serve(header_timeout=0.4, keep_alive_timeout=0.8) as door:
        peer = await door.knock()
        await peer.send(start)
        begin = time.monotonic()

        rest = await asyncio.wait_for(peer.closed(), 10)

        assert 0.3 < time.monotonic() - begin < 5
    if start.startswith(GOOD):
        assert rest.startswith(b"HTTP/1.1 200")
    else:
        assert rest.startswith(b"HTTP/1.1 408")
        assert rest.endswith(b'{"detail":"The request\'s headers took too long."}')


@pytest.mark.parametrize("start", [GOOD[:20], LONG], ids=["headers", "body"])
async def test_what_drips_is_refused_although_bytes_arrive(serve: Open, start: bytes) -> None:
    async with serve(header_timeout=0.4, body_timeout=0.4) as door:
        peer = await door.knock()
        ended = asyncio.create_task(peer.closed())
        await peer.send(start)
        begin = time.monotonic()

        while not ended.done() and time.monotonic() - begin < 10:
            peer.writer.write(b"a")
            await asyncio.sleep(0.05)

        assert (await ended).startswith(b"HTTP/1.1 408")


async def test_a_body_that_stops_arriving_ends_the_request(serve: Open) -> None:
    async with serve(body_timeout=0.4) as door:
        peer = await door.knock()
        await peer.send(GOOD[:-3])

        status, headers, body = await asyncio.wait_for(peer.answer(), 10)

        assert status == 408
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        assert len(headers["request-id"]) == 36
        assert json.loads(body) == {"detail": "The request's body stopped arriving."}
        await asyncio.wait_for(door.app.disconnected.wait(), 5)


async def test_a_body_may_take_longer_than_the_timeout_while_it_keeps_coming(serve: Open) -> None:
    async with serve(body_timeout=0.6, header_timeout=0.3) as door:
        peer = await door.knock()
        await peer.send(LONG)
        for _ in range(5):
            await asyncio.sleep(0.25)
            await peer.send(b"x" * 1_000)

        status, _, body = await peer.answer()

        assert (status, body) == (200, b"5000")


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_rest_of_a_body_that_is_not_wanted_may_not_drip_for_ever(
    serve: Open, chunked: bool
) -> None:
    async with serve(body_timeout=0.5, keep_alive_timeout=30) as door:
        door.app.reads = False
        peer = await door.knock()
        length = b"transfer-encoding: chunked" if chunked else b"content-length: 1000000"
        await peer.send(b"POST / HTTP/1.1\r\nhost: galley\r\n" + length + b"\r\n\r\n")
        assert (await peer.answer())[0] == 200
        ended, begin = asyncio.create_task(peer.closed()), time.monotonic()

        while not ended.done() and time.monotonic() - begin < 10:
            peer.writer.write(b"1\r\na\r\n" if chunked else b"a")
            await asyncio.sleep(0.05)

        assert await ended == b""
        assert 0.4 < time.monotonic() - begin < 5


async def test_a_connection_goes_on_after_a_body_that_was_not_wanted(serve: Open) -> None:
    async with serve(body_timeout=0.5, header_timeout=0.5) as door:
        door.app.reads = False
        peer = await door.knock()
        await peer.send(GOOD[:-5])
        await peer.answer()
        await asyncio.sleep(0.3)
        door.app.reads = True
        await peer.send(b"hello" + GOOD[:-5])
        await asyncio.sleep(0.4)
        await peer.send(b"hello")

        status, _, body = await peer.answer()

        assert (status, body) == (200, b"5")


async def test_a_client_is_not_blamed_while_the_server_does_not_read(serve: Open) -> None:
    async with serve(body_timeout=0.2) as door:
        door.app.wait_s = 0.8
        peer = await door.knock()
        expects = GOOD[:-7] + b"expect: 100-continue\r\n\r\n"
        await peer.send(expects)
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"hello")

        status, _, body = await peer.answer()

        assert (status, body) == (200, b"5")


async def test_an_idle_connection_is_closed_without_a_word(serve: Open) -> None:
    async with serve(keep_alive_timeout=0.3) as door:
        peer = await door.knock()
        await peer.send(GOOD)
        await peer.answer()
        begin = time.monotonic()

        rest = await asyncio.wait_for(peer.closed(), 10)

        assert rest == b""
        assert 0.2 < time.monotonic() - begin < 5


async def test_connections_over_the_cap_are_refused_at_once_and_others_go_on(serve: Open) -> None:
    async with serve(max_connections=2) as door:
        busy, idle = await door.knock(), await door.knock()
        await idle.send(GOOD)
        await idle.answer()

        status, headers, body = await asyncio.wait_for((await door.knock()).answer(), 2)

        assert status == 503
        assert headers["retry-after"] == "1"
        assert "all of its 2 connections" in json.loads(body)["detail"]
        await busy.send(GOOD)
        assert (await busy.answer())[0] == 200
        idle.writer.close()
        await idle.writer.wait_closed()
        await asyncio.sleep(0.1)
        late = await door.knock()
        await late.send(GOOD)
        assert (await late.answer())[0] == 200


@pytest.mark.parametrize(
    "flood",
    [
        b"x-a: " + b"a" * 1_000_000,
        b"x-a: b\r\n" * 100_000,
        b"x-a: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
    ],
    ids=["one endless value", "endless headers", "complete and just too large"],
)
async def test_large_headers_are_refused(serve: Open, flood: bytes) -> None:
    async with serve() as door:
        peer = await door.knock()
        peer.writer.write(b"GET / HTTP/1.1\r\n" + flood)

        status, _, body = await asyncio.wait_for(peer.answer(), 10)

        assert status == 431
        assert "larger than 65536 bytes" in json.loads(body)["detail"]


async def test_large_bodies_do_not_count_as_headers(serve: Open) -> None:
    async with serve() as door:
        peer = await door.knock()
        chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
        head = b"POST / HTTP/1.1\r\nhost: galley\r\ntransfer-encoding: chunked\r\n\r\n"
        await peer.send(head + chunk * 10 + b"0\r\n\r\n" + GOOD)

        answers = [await peer.answer(), await peer.answer()]

        assert [(status, body) for status, _, body in answers] == [(200, b"655360"), (200, b"5")]


async def test_endless_trailers_are_refused(serve: Open) -> None:
    async with serve() as door:
        peer = await door.knock()
        head = b"POST / HTTP/1.1\r\nhost: galley\r\ntransfer-encoding: chunked\r\n\r\n"
        peer.writer.write(head + b"1\r\na\r\n0\r\nx-trailer: " + b"a" * 1_000_000)

        status, _, _ = await asyncio.wait_for(peer.answer(), 10)

        assert status == 431


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00 a TLS hello",
        b"NONSENSE\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nnot a size\r\n",
    ],
    ids=["tls", "no http", "bytes in the path", "two lengths", "bad chunk"],
)
async def test_what_is_not_http_gets_a_400_in_json(serve: Open, junk: bytes) -> None:
    async with serve() as door:
        peer = await door.knock()
        await peer.send(junk)

        status, headers, body = await asyncio.wait_for(peer.answer(), 10)

        assert status == 400
        assert headers["content-type"] == "application/json"
        assert json.loads(body) == {"detail": "Invalid HTTP request received."}
        assert await peer.closed() == b""


async def test_junk_after_a_request_does_not_get_into_its_answer(serve: Open) -> None:
    async with serve() as door:
        peer = await door.knock()
        await peer.send(b"GET /endless HTTP/1.1\r\nhost: galley\r\n\r\n")
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"\x00 junk \x00\r\n\r\n")

        rest = await asyncio.wait_for(peer.closed(), 10)

        assert b"400 Bad Request" not in rest
        await asyncio.wait_for(door.app.disconnected.wait(), 5)


async def test_pipelined_requests_are_answered_up_to_a_bound(serve: Open) -> None:
    async with serve() as door:
        few, many = await door.knock(), await door.knock()
        await few.send(GOOD * 10)
        await many.send(GOOD * 1000)

        answers = [await few.answer() for _ in range(10)]
        rest = await asyncio.wait_for(many.closed(), 10)

        assert [status for status, _, _ in answers] == [200] * 10
        assert rest.count(b"HTTP/1.1 200") < 1000


async def test_a_client_that_stops_reading_holds_little_memory_and_is_cut(serve: Open) -> None:
    async with serve(keep_alive_timeout=1.0) as door:
        peer = await door.knock()
        await peer.send(b"GET /endless HTTP/1.1\r\nhost: galley\r\n\r\n")
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue] - a socket's transport
        await asyncio.sleep(0.5)
        (connection,) = door.server.server_state.connections
        waiting = connection.transport.get_write_buffer_size()
        sent = door.app.sent

        await asyncio.wait_for(door.app.disconnected.wait(), 10)

        assert 0 < waiting < 4 * len(PIECE)
        assert door.app.sent - sent < 4 * len(PIECE)


async def test_a_client_that_reads_slowly_is_not_cut(serve: Open) -> None:
    async with serve(keep_alive_timeout=0.5) as door:
        peer = await door.knock()
        await peer.send(b"GET /endless HTTP/1.1\r\nhost: galley\r\n\r\n")

        for _ in range(15):
            await asyncio.sleep(0.1)
            await peer.reader.readexactly(4 * len(PIECE))

        assert not door.app.disconnected.is_set()
