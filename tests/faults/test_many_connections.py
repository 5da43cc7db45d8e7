"""Slow, idle and many peers at one real server with nothing in front of it."""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager

import httpx2
import pytest

from galley.core.process import allow_open_files
from tests.lone_server import CHAT, HELLO, LoneServer, lone_server
from tests.upstream import in_two_parts, well

pytestmark = pytest.mark.anyio

FEW_FILES = ("sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh")
PATIENCE = {
    "GALLEY_HEADER_TIMEOUT": "1.5",
    "GALLEY_BODY_TIMEOUT": "1.5",
    "GALLEY_KEEP_ALIVE_TIMEOUT": "2",
}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: galley\r\n"
SLOW = 400
DRIP_S = 0.3
CUT_S = 30
CUT = {b"HTTP/1.1 408", b""}  # nothing where a byte crossed the answer: that resets the connection
IDLE = 1_000
STREAMS = 500
MB = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LoneServer]:
    """With little patience, and 256 open files unless it asks for more."""
    allow_open_files()  # here, for the clients
    folder = tmp_path_factory.mktemp("crowd")
    with lone_server(folder, through=FEW_FILES, **PATIENCE) as server:
        yield server


@pytest.fixture(scope="module")
def usual_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LoneServer]:
    """As it comes."""
    with lone_server(tmp_path_factory.mktemp("usual")) as server:
        yield server


class Peer:
    """A connection, and what the server has said on it when it is over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.ended = asyncio.create_task(self._end())

    async def _end(self) -> bytes:
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def peers(server: LoneServer, firsts: Sequence[bytes]) -> AsyncGenerator[list[Peer]]:
    """As many connections as there are `firsts`, each of which was sent."""
    made: list[Peer] = []
    try:
        for first in firsts:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", server.node.port))
            peer.writer.write(first)
            made.append(peer)
        yield made
    finally:
        for peer in made:
            peer.writer.close()
        await asyncio.gather(*(peer.ended for peer in made))


class Asking:
    """One client that asks all the time, and how long each answer took."""

    def __init__(self, server: LoneServer) -> None:
        self._client = httpx2.AsyncClient(
            base_url=server.node.url, headers={"authorization": f"Bearer {server.key}"}, timeout=30
        )
        self.took_s: list[float] = []

    async def once(self) -> None:
        """Ask for a chat and the models."""
        began = time.perf_counter()
        answers = [await self._client.post(CHAT, json=HELLO), await self._client.get("/v1/models")]
        self.took_s.append(time.perf_counter() - began)
        assert [answer.status_code for answer in answers] == [200, 200]

    def p99_s(self) -> float:
        """The time that one of a hundred took longer."""
        return statistics.quantiles(self.took_s, n=100)[-1]

    async def __aenter__(self) -> "Asking":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


def slow_firsts(server: LoneServer, count: int) -> list[bytes]:
    """Half of them begin a head, half a body; none of them means to end it."""
    body = f"authorization: Bearer {server.key}\r\ncontent-length: 100000\r\n\r\n{{".encode()
    return [HEAD + (body if n % 2 else b"x-slow: ") for n in range(count)]


async def besiege(server: LoneServer, asking: Asking) -> tuple[list[bytes], float]:
    """Send all a byte now and then until they are cut; what they were told, and how late."""
    async with peers(server, slow_firsts(server, SLOW)) as slow:
        began, dripped = time.monotonic(), time.monotonic()
        while not all(peer.ended.done() for peer in slow) and time.monotonic() - began < 60:
            if time.monotonic() - dripped > DRIP_S:
                dripped = time.monotonic()
                for peer in slow:
                    if not peer.ended.done():
                        peer.writer.write(b"x")
            await asking.once()
            await asyncio.sleep(0.02)
        return [peer.ended.result() for peer in slow], time.monotonic() - began


async def test_400_slow_peers_are_cut_whatever_they_hold_back_and_good_requests_are_answered(
    server: LoneServer,
) -> None:
    async with Asking(server) as asking:
        told, _ = await besiege(server, asking)

    assert len(told) == SLOW
    assert {each[:12] for each in told} <= CUT


@pytest.mark.slow
async def test_400_slow_peers_are_cut_within_30_s_and_good_requests_do_not_feel_them(
    usual_server: LoneServer,
) -> None:
    async with Asking(usual_server) as before, Asking(usual_server) as meanwhile:
        for _ in range(500):
            await before.once()
            await asyncio.sleep(0.02)
        told, took_s = await besiege(usual_server, meanwhile)

    assert len(told) == SLOW
    assert {each[:12] for each in told} <= CUT
    assert took_s < CUT_S
    assert meanwhile.p99_s() < 10 * before.p99_s()


async def test_1000_idle_connections_are_in_nobodys_way_and_are_closed_without_a_word(
    server: LoneServer,
) -> None:
    process = server.node.running
    most = before = process.num_fds()
    first = b"GET /health/live HTTP/1.1\r\nhost: galley\r\n\r\n"
    async with Asking(server) as asking, peers(server, [first] * IDLE) as idle:
        while not all(peer.ended.done() for peer in idle):
            most = max(most, process.num_fds())
            await asking.once()
        told = [peer.ended.result() for peer in idle]
    after = process.num_fds()

    assert [each.count(b"HTTP/1.1 ") for each in told] == [1] * IDLE
    assert {each[:12] for each in told} == {b"HTTP/1.1 200"}
    assert most > before + IDLE // 2  # the first may be closed before the last has come
    assert after <= before + 5


@pytest.mark.parametrize("waves", [2, pytest.param(10, marks=pytest.mark.slow)])
async def test_500_streams_at_once_all_end_and_are_booked_and_the_next_500_take_no_more_memory(
    server: LoneServer, waves: int
) -> None:
    taken: list[int] = []
    ids: list[str] = []
    for _ in range(waves):
        ids += await many_streams(server)
        taken.append(server.node.running.memory_info().rss)

    states = await asyncio.to_thread(server.states)
    assert len(set(ids)) == waves * STREAMS
    assert {states[request_id] for request_id in ids} == {"completed"}
    assert taken[-1] - taken[0] <= max(20 * MB, taken[0] // 20)


async def many_streams(server: LoneServer) -> list[str]:
    """Begin all, and let them end when every one of them has begun; returns their ids."""
    far = server.far
    go_on, begun = in_two_parts(far), len(far.calls)
    bounds = httpx2.Limits(max_connections=STREAMS)
    headers = {"authorization": f"Bearer {server.key}"}
    async with httpx2.AsyncClient(
        base_url=server.node.url, headers=headers, timeout=60, limits=bounds
    ) as client:
        asked = [
            asyncio.create_task(client.post(CHAT, json=HELLO | {"stream": True}))
            for _ in range(STREAMS)
        ]
        while len(far.calls) < begun + STREAMS:
            assert not any(task.done() for task in asked)
            await asyncio.sleep(0.02)
        go_on()
        answers = await asyncio.gather(*asked)
    far.behaviour = well
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    return [answer.headers["request-id"] for answer in answers]
