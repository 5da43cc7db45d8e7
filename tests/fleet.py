"""Several `galley serve` on one PostgreSQL and one Redis, and clients that never stop asking."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx2
import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.security import make_key
from galley.db.session import open_database, visit_database
from galley.db.tables import ApiRequest, Price
from tests.faults.test_kill import free_port, is_ready
from tests.nginx import Front, nginx
from tests.upstream import Call, Upstream, misbehaving, well

MODEL, TEXTS = "far", "far-texts"
LOOK_S = 0.1  # between two looks of a client that asks for nothing else
T = TypeVar("T")


@dataclass
class Node:
    """One server, to be stopped, killed and started again on the same port."""

    folder: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.port}.log"

    def start(self, *, wait: bool = True) -> None:
        """Start it; it is ready when this returns."""
        command = [Path(sys.executable).with_name("galley"), "serve"]
        own = self.environment | {"GALLEY_PORT": str(self.port)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
        if wait:
            self.until_ready()

    def until_ready(self) -> None:
        """Wait until it is."""
        end = time.monotonic() + 60
        while not is_ready(self.url):
            assert self.process, "it was never started"
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def health(self) -> dict[str, str]:
        """How its parts are."""
        return httpx2.get(f"{self.url}/health", timeout=10).json()["parts"]

    def stop(self) -> int:
        """End it as an operator would; returns the exit status."""
        assert self.process
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """End it as no operator should."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


@dataclass
class Fleet:
    """The servers, nginx in front of them, the model's server behind, and a key for all."""

    nodes: list[Node]
    front: Front
    far: Upstream
    key: str
    database_url: str

    def client(self, **more: Any) -> httpx2.Client:
        """A client of nginx."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx2.Client(
            base_url=self.front.url, verify=self.front.trust, headers=headers, timeout=30, **more
        )

    def states(self) -> dict[str, str]:
        """What the ledger says of every request."""

        async def read(session: AsyncSession) -> dict[str, str]:
            rows = await session.execute(select(ApiRequest.request_id, ApiRequest.state))
            return {row.request_id: row.state for row in rows}

        return visit(self.database_url, read)


@contextmanager
def fleet(
    folder: Path, database_url: str, redis_url: str, *, servers: int = 2, **more: str
) -> Generator[Fleet]:
    """Run it until the block ends."""
    key = make_key()
    with ExitStack() as stack:
        far = stack.enter_context(misbehaving(_take_time))
        asyncio.run(_make_database(database_url))
        models = {
            MODEL: {"kind": "chat", "source": far.url},
            TEXTS: {"kind": "embeddings", "source": far.url},
        }
        shared = {
            "GALLEY_DATA_DIR": str(folder),
            "GALLEY_DATABASE_URL": database_url,
            "GALLEY_REDIS_URL": redis_url,
            "GALLEY_BOOTSTRAP_KEY": key,
            "GALLEY_TRUSTED_PROXIES": "127.0.0.1",
            "GALLEY_EMBEDDED_MODELS": "false",
            "GALLEY_EMBEDDED_DOCUMENTS": "false",
            "GALLEY_CACHE_BYTES": "0",
            "GALLEY_MODELS": orjson.dumps(models).decode(),
            **more,
        }
        nodes = [Node(folder, shared) for _ in range(servers)]
        for node in nodes:
            stack.callback(node.kill)
            node.start(wait=False)
        for node in nodes:
            node.until_ready()
        front = stack.enter_context(nginx([node.port for node in nodes], folder / "nginx"))
        yield Fleet(nodes, front, far, key, database_url)


async def _make_database(url: str) -> None:
    async with open_database(url) as database, database.sessions.begin() as session:
        session.add_all([Price(model=MODEL), Price(model=TEXTS)])


async def _take_time(call: Call) -> None:
    """Answer, a stream word by word, so slowly that it is under way when something happens."""
    if call.path.endswith("/embeddings"):
        await well(call)
        return
    pause = 0.3 if "slowly" in str(call.body) else 0.01
    await call.begin()
    for event in call.good():
        await call.events(event, end=False)
        await asyncio.sleep(pause)
    await call.events()


def visit(url: str, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do `work` in the database beside the servers."""

    async def run() -> T:
        async with visit_database(url) as sessions, sessions.begin() as session:
            return await work(session)

    return asyncio.run(run())


def chat(words: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """A request for an answer."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": words}], **more}
    return "/v1/chat/completions", body


ASKS: Sequence[tuple[str, dict[str, Any] | None]] = [
    chat("Say it slowly.", stream=True),
    chat("Say it slowly."),
    chat("Say it.", stream=True),
    chat("Say it."),
    ("/v1/embeddings", {"model": TEXTS, "input": "hello"}),
    ("/v1/models", None),
]


class Failure(NamedTuple):
    """A request that did not succeed; the status is 0 where there was no answer."""

    at: float
    what: str
    status: int
    told: str
    retry_after: str | None


class Load:
    """Clients that ask again and again, and keep what came of it; only what is billed is counted.

    Args:
        pause_s: between an answer and the next request of the same client.
    """

    def __init__(self, fleet: Fleet, *, each: int = 2, pause_s: float = 0.0) -> None:
        self.whole: list[str] = []
        """The ids of all billed answers that were seen whole."""
        self.failed: list[Failure] = []
        self.count = 0
        self._pause_s = pause_s
        self._fleet = fleet
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=ask) for ask in ASKS for _ in range(each)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, count: int) -> None:
        """Wait until so many requests have been answered."""
        end = time.monotonic() + 300
        while self.count < count:
            assert time.monotonic() < end, (self.count, self.failed)
            time.sleep(0.05)

    def _ask(self, path: str, body: dict[str, Any] | None) -> None:
        with self._fleet.client() as client:
            while not self._stop.is_set():
                what = f"{path} {'stream' if body and body.get('stream') else ''}"
                try:
                    answer = client.get(path) if body is None else client.post(path, json=body)
                except httpx2.TransportError as error:
                    self._fail(what, 0, repr(error))
                else:
                    self._look_at(what, body, answer)
                self.count += body is not None
                self._stop.wait(self._pause_s if body is not None else LOOK_S)

    def _fail(self, what: str, status: int, told: str, retry_after: str | None = None) -> None:
        self.failed.append(Failure(time.monotonic(), what, status, told[-300:], retry_after))

    def _look_at(self, what: str, body: dict[str, Any] | None, answer: httpx2.Response) -> None:
        streamed = bool(body and body.get("stream"))
        if answer.status_code != 200:
            self._fail(what, answer.status_code, answer.text, answer.headers.get("retry-after"))
        elif streamed and not answer.text.endswith("data: [DONE]\n\n"):
            self._fail(what, 200, answer.text)
        elif body is not None:
            self.whole.append(answer.headers["request-id"])
