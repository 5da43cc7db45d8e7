"""A real redis-server for tests: on a socket of its own, nothing kept, stopped at will."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis

MOMENT_S = 0.01


class RedisServer:
    """A redis-server that may be stopped, started, and held up."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> Redis:
        """A client of one's own, to be closed."""
        return Redis(unix_socket_path=str(self.socket))

    def start(self) -> None:
        """Start it, empty; it answers when this returns."""
        self._process = subprocess.Popen(
            [
                "redis-server", "--port", "0", "--unixsocket", str(self.socket),
                "--save", "", "--appendonly", "no", "--dir", str(self._folder),
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 10
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert time.monotonic() < end, "redis-server does not start"
                    time.sleep(0.01)
                else:
                    return

    def stop(self) -> None:
        """Kill it; what it knew is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Let it take connections and answer nothing."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again, with all that it knew."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def slow(self, pause_s: float) -> Generator[None]:
        """Let it work for a moment only after each such pause, until the block ends."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                self.hang()
                stop.wait(pause_s)
                self.go_on()
                time.sleep(MOMENT_S)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def running_redis() -> Generator[RedisServer]:
    """One of one's own; it starts within a tenth of a second."""
    # Not in pytest's own directory: a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix=f"galley-redis-{os.getpid()}-"))
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_of_session() -> Generator[RedisServer]:
    """One for this process."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server(redis_of_session: RedisServer) -> RedisServer:
    """The same, empty, for a test that leaves it running."""
    with redis.Redis(unix_socket_path=str(redis_of_session.socket)) as client:
        client.flushall()
    return redis_of_session


@pytest.fixture
def own_redis() -> Generator[RedisServer]:
    """One for this test alone, to be stopped."""
    with running_redis() as server:
        yield server


@pytest.fixture
async def redis_client(redis_server: RedisServer) -> AsyncGenerator[Redis]:
    """A client of the empty server."""
    async with redis_server.client() as client:
        yield client
