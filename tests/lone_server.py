"""One `galley serve` on SQLite, with a chat model on another server and nothing else to do."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.security import make_key
from galley.db.tables import Price, utc_now
from tests.databases import visit
from tests.load import Ask, Load
from tests.node import Node, own_settings, running
from tests.records import states
from tests.sqlite_file import put_sqlite
from tests.upstream import Upstream, misbehaving

MODEL = "far"
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
ASKS: Sequence[Ask] = [(CHAT, HELLO), (CHAT, HELLO | {"stream": True})]


@dataclass
class LoneServer:
    """The server, the model's server behind it, and the first key."""

    node: Node
    far: Upstream
    key: str
    data_dir: Path

    def client(self) -> httpx2.Client:
        """A client, to be closed."""
        return self.node.client(self.key)

    def load(self, *, each: int = 2, pause_s: float = 0.05) -> Load:
        """Whole answers and streams."""
        return Load(self.client, ASKS, each=each, pause_s=pause_s)

    def states(self) -> dict[str, str]:
        """What the ledger says of every request."""
        return visit(database_url(self.data_dir), states)


@contextmanager
def lone_server(
    data_dir: Path, *, through: Sequence[str] = (), **more: str
) -> Generator[LoneServer]:
    """Run it until the block ends; `more` is what else it finds in its environment."""
    key, url = make_key(), database_url(data_dir)
    put_sqlite(url)
    visit(url, _price)
    with misbehaving() as far:
        models = {MODEL: {"kind": "chat", "source": far.url}}
        settings = own_settings(
            data_dir, key,
            GALLEY_EMBEDDED_MODELS="false", GALLEY_MODELS=orjson.dumps(models).decode(), **more,
        )  # fmt: skip
        with running(Node(data_dir, settings, through)) as node:
            yield LoneServer(node, far, key, data_dir)


def database_url(data_dir: Path) -> str:
    """Where its ledger is."""
    return f"sqlite:///{data_dir}/galley.db"


async def _price(session: AsyncSession) -> None:
    # Since yesterday: one of this minute would not be valid yet if the clock were set back.
    session.add(Price(model=MODEL, valid_from=utc_now() - timedelta(days=1)))
