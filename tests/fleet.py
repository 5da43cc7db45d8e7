"""Several `galley serve` on one PostgreSQL and one Redis, nginx in front, and load on them."""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson

from galley.core.security import make_key
from galley.db.session import open_database
from galley.db.tables import Price
from tests.databases import visit
from tests.load import Ask, Load
from tests.nginx import Front, nginx
from tests.node import Node
from tests.records import states
from tests.upstream import Call, Upstream, misbehaving, well

MODEL, TEXTS = "far", "far-texts"


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
        return visit(self.database_url, states)


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


def chat(words: str, **more: Any) -> Ask:
    """A request for an answer."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": words}], **more}
    return "/v1/chat/completions", body


ASKS: Sequence[Ask] = [
    chat("Say it slowly.", stream=True),
    chat("Say it slowly."),
    chat("Say it.", stream=True),
    chat("Say it."),
    ("/v1/embeddings", {"model": TEXTS, "input": "hello"}),
    ("/v1/models", None),
]


def load_of(fleet: Fleet, *, each: int = 2, pause_s: float = 0.0) -> Load:
    """Load on all of it, through nginx."""
    return Load(fleet.client, ASKS, each=each, pause_s=pause_s)
