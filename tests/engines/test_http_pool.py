"""Our own HTTP client, against servers that say exactly these bytes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from yarl import URL

from galley.engines import http_pool
from galley.engines.http_client import NotHttpError, UnreachableError
from galley.engines.http_patience import ENDLESS, Exchange, Patience
from galley.engines.http_pool import MOST_AHEAD_BYTES, Pool

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
Say = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Says the same bytes to every request, then what `afterwards` does."""

    def __init__(self, *said: bytes, pause_s: float = 0.0, hang_up: bool = False) -> None:
        self.said = said
        self.pause_s = pause_s
        self.hang_up = hang_up
        self.requests: list[bytes] = []
        self.connections: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(x for x in head.split(b"\r\n") if x.startswith(b"content-length"))
                self.requests.append(head + await reader.readexactly(int(length.split(b":")[1])))
                for part in self.said:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(self.pause_s)
                if self.hang_up:
                    break
        writer.close()


@asynccontextmanager
async def asking(server: Server, **more: object) -> AsyncGenerator[Pool]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1")
    port = listening.sockets[0].getsockname()[1]
    pool = Pool(URL(f"http://127.0.0.1:{port}/v1"), {"x-name": "a"}, connect_s=5)
    try:
        yield pool
    finally:
        await pool.aclose()
        listening.close()
        for writer in server.connections:
            writer.transport.abort()
        await asyncio.sleep(0)


async def post(pool: Pool, body: bytes = b"{}", patience: Patience = ENDLESS) -> tuple[int, bytes]:
    exchange = Exchange(patience)
    answer = await pool.request("POST", "/chat", body, exchange)
    try:
        read = b""
        while part := await answer.readany():
            read += part
        return answer.status, read
    finally:
        exchange.close()
        answer.close()


async def test_a_request_is_sent_as_it_is_and_its_connection_is_used_again() -> None:
    server = Server(OK)
    async with asking(server) as pool:
        first, second = await post(pool, b'{"a":1}'), await post(pool)

    assert first == second == (200, b"hi")
    line, *_ = server.requests[0].split(b"\r\n")
    assert line == b"POST /v1/chat HTTP/1.1"
    assert b"\r\nx-name: a\r\n" in server.requests[0]
    assert server.requests[0].endswith(b'content-length: 7\r\n\r\n{"a":1}')
    assert len(server.connections) == 1


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    server = Server(OK, pause_s=0.05)
    async with asking(server) as pool:
        answers = await asyncio.gather(*(post(pool) for _ in range(3)))

    assert answers == [(200, b"hi")] * 3
    assert len(server.connections) == 3


@pytest.mark.parametrize(
    "said",
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", OK),
        (OK[:9], OK[9:30], OK[30:]),
        (CHUNKED + b"\r\n", b"1\r\nh\r\n1\r", b"\ni\r\n0\r\n\r\n"),
    ],
    ids=["hints before it", "in parts", "in chunks"],
)  # fmt: skip
async def test_an_answer_comes_however_it_is_cut(said: tuple[bytes, ...]) -> None:
    server = Server(*said, pause_s=0.01)
    async with asking(server) as pool:
        assert await post(pool) == (200, b"hi")
        assert await post(pool) == (200, b"hi")

    assert len(server.connections) == 1


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\n\r\n", b"all of", b" it", pause_s=0.01, hang_up=True)
    async with asking(server) as pool:
        assert await post(pool) == (200, b"all of it")


@pytest.mark.parametrize(
    "last",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi", OK + b"HTTP/1.1 200"],
    ids=["it says so", "it says too much"],
)
async def test_a_connection_that_cannot_be_used_again_is_closed(last: bytes) -> None:
    server = Server(last)
    async with asking(server) as pool:
        assert await post(pool) == (200, b"hi")
        assert await post(pool) == (200, b"hi")

    assert len(server.connections) == 2


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    server = Server(OK)
    async with asking(server) as pool:
        await post(pool)
        server.connections[0].transport.abort()

        assert await post(pool) == (200, b"hi")

    assert len(server.connections) == 2


async def test_a_kept_connection_that_dies_over_a_request_is_replaced_once() -> None:
    server = Server(OK)
    async with asking(server) as pool:
        await post(pool)
        server.said, server.hang_up = (), True

        with pytest.raises(ConnectionError):
            await post(pool)

    assert len(server.requests) == 3
    assert len(server.connections) == 2


async def test_what_was_begun_to_be_answered_is_not_asked_again() -> None:
    server = Server(OK)
    async with asking(server) as pool:
        await post(pool)
        server.said, server.hang_up = (b"HTTP/1.1 2",), True

        with pytest.raises(ConnectionError):
            await post(pool)

    assert len(server.requests) == 2


async def test_half_a_body_is_no_answer() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", hang_up=True)
    async with asking(server) as pool:
        with pytest.raises(ConnectionError):
            await post(pool)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        CHUNKED + b"content-length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
    ],
    ids=["another protocol", "an upgrade", "two lengths", "endless headers"],
)
async def test_what_is_not_http_is_said_to_be_none(said: bytes) -> None:
    async with asking(Server(said)) as pool:
        with pytest.raises(NotHttpError):
            await post(pool)


async def test_trailers_are_read_to_a_bound_and_not_kept() -> None:
    trailers = CHUNKED + b"\r\n2\r\nhi\r\n0\r\nx-late: 1\r\n\r\n"
    async with asking(Server(trailers)) as pool:
        exchange = Exchange(ENDLESS)
        answer = await pool.request("POST", "/chat", b"{}", exchange)
        while await answer.readany():
            pass

        assert answer.header("x-late") is None
        answer.close()

    begun = CHUNKED + b"\r\n2\r\nhi\r\n0\r\n"
    async with asking(Server(begun, b"x: y\r\n" * 20_000, pause_s=0.01)) as pool:
        with pytest.raises(NotHttpError):
            await post(pool)


async def test_a_connection_with_half_a_request_on_it_is_not_used_again() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.sleep(0.3)
        writer.close()

    listening = await asyncio.start_server(refuse, "127.0.0.1")
    port = listening.sockets[0].getsockname()[1]
    pool = Pool(URL(f"http://127.0.0.1:{port}"), {}, connect_s=5)
    large = b"x" * 30_000_000

    assert await post(pool, large) == (200, b"hi")
    async with asyncio.timeout(5):
        assert await post(pool) == (200, b"hi")

    await pool.aclose()
    listening.close()
    await asyncio.sleep(0.4)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://b\u00fccher.example:8000/v1", b"xn--bcher-kva.example:8000"),
        ("http://[::1]:8000/v1", b"[::1]:8000"),
        ("http://plain.example/v1", b"plain.example"),
    ],
)
async def test_a_name_is_sent_as_it_is_resolved(url: str, host: bytes, tmp_path: Path) -> None:
    server = Server(OK)
    listening = await asyncio.start_unix_server(server.serve, tmp_path / "s")
    pool = Pool(URL(url), {}, connect_s=5, socket=tmp_path / "s")

    assert await post(pool) == (200, b"hi")

    assert b"\r\nhost: " + host + b"\r\n" in server.requests[0]
    await pool.aclose()
    listening.close()
    await asyncio.sleep(0.01)


async def test_a_name_that_is_none_cannot_be_reached() -> None:
    with pytest.raises(UnreachableError):
        await post(Pool(URL("http://a..b"), {}, connect_s=5))


async def test_a_silent_server_is_left_when_its_time_is_over() -> None:
    server = Server()
    async with asking(server) as pool:
        with pytest.raises(TimeoutError):
            await post(pool, patience=Patience(first_token=0.05))
        await asyncio.sleep(0.01)

        assert not pool.connections


async def test_nobody_there_is_said_at_once() -> None:
    listening = await asyncio.start_server(Server().serve, "127.0.0.1")
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    pool = Pool(URL(f"http://127.0.0.1:{port}"), {}, connect_s=5)

    with pytest.raises(UnreachableError):
        await post(pool)


async def test_a_body_that_nobody_reads_slows_the_server_down() -> None:
    size = 100 * MOST_AHEAD_BYTES
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, b"x" * size)
    async with asking(server) as pool:
        exchange = Exchange(ENDLESS)
        answer = await pool.request("POST", "/chat", b"{}", exchange)
        await asyncio.sleep(0.2)
        ahead = len(await answer.readany())
        rest = 0
        while part := await answer.readany():
            rest += len(part)

        answer.close()

    assert ahead < 4 * MOST_AHEAD_BYTES
    assert ahead + rest == size


async def test_a_connection_that_idles_for_long_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_pool, "KEPT_S", 0.05)
    async with asking(Server(OK)) as pool:
        await post(pool)
        assert len(pool.connections) == 1

        await asyncio.sleep(0.2)

        assert not pool.connections


async def test_closing_hangs_up_on_what_is_under_way() -> None:
    async with asking(Server()) as pool:
        asked = asyncio.create_task(post(pool))
        await asyncio.sleep(0.05)

        await pool.aclose()

        with pytest.raises(ConnectionError):
            await asked
        with pytest.raises(ConnectionError):
            await post(pool)


async def test_a_socket_of_this_machine_takes_the_place_of_the_host(tmp_path: Path) -> None:
    server = Server(OK)
    listening = await asyncio.start_unix_server(server.serve, tmp_path / "s")
    pool = Pool(URL("http://nowhere/v1"), {}, connect_s=5, socket=tmp_path / "s")

    assert await post(pool) == (200, b"hi")

    await pool.aclose()
    listening.close()
    await asyncio.sleep(0.01)


def test_a_header_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        Pool(URL("http://host"), {"x": "a\r\nhost: other"}, connect_s=5)
